"""Reports on mixtures of domains."""
