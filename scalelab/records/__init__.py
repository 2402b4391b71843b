"""Records: what sweeps, runs and stages left on disk, and external tables, as rows to read."""
