"""Two or more recipes held against each other by their compute multipliers, and the decision that follows."""
