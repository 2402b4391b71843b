"""Frozen forecasts: the file, the expected loss curve, and the ledger of outcomes."""
