"""The report of a post-training."""
