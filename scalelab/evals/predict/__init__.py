"""Predictions of task scores for larger models."""
