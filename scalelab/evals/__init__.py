"""Evaluation: what a finished model can do, measured the same way for every model."""
