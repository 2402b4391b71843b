"""Listings of runs and forecasts."""
