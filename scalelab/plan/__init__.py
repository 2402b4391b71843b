"""Plans: what to train with a budget, and what it costs, from the constants of a fit."""
