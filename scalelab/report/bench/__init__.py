"""The report of `scalelab bench`."""
