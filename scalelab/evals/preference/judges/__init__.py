"""Judges, which say which of two answers is better. One file each; the registry is JUDGES in evals."""
