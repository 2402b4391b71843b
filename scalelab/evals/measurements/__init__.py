"""Measurements of `scalelab eval`, one file each; the table is MEASUREMENTS in evals."""
