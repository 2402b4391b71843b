"""Simulated tables of runs: losses drawn from a known law on a design under a noise."""
