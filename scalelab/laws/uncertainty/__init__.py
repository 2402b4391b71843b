"""Uncertainty of a fit: bootstrap, profile likelihood, influence of single runs, choice of law."""
