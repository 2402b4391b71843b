"""Checks of a machine, one subject a file: what is there, whether training can use it, and the fix."""
