"""Contamination: whether test items were in the training text."""
