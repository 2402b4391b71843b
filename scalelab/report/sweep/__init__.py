"""The report of a sweep: its plan and its outcome."""
