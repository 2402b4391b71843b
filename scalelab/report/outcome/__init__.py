"""The report of an outcome: the forecast of a run against its measured loss."""
