"""Checkpoints of a run: of one process (unsharded) or of many (sharded)."""
