"""scalelab: plan large training runs from small ones."""

__version__ = "0.1.0"
