"""Studies: every law fitted to the same runs, the hold-out test, the forecast and its verdict."""
