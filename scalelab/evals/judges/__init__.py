"""Judges: which of two answers is better. One file each; the table is JUDGES in evals."""
