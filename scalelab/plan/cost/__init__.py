"""Costs of a run: budget, memory, layout, time, money and carbon."""
