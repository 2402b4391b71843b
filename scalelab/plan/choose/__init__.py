"""The choice of N and D: the optimum, and variants under constraints."""
