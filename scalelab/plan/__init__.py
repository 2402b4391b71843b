"""Plans: the model to train for a budget, its cost and its forecast, from fitted laws."""
