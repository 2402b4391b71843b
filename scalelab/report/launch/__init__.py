"""The report of a run before it is launched."""
