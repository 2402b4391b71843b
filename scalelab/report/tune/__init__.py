"""Report of a tuning."""
