"""The report of `scalelab doctor`."""
