"""The report of `scalelab check-recipe`."""
