"""The forecasting methods that come with scalelab, one a file."""
