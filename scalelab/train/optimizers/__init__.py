"""Optimizers: what a spec says of one, and who holds the weights that it updates."""
