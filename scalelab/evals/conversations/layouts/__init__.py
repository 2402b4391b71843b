"""Layouts of records, one file each; the registry is LAYOUTS in evals."""
