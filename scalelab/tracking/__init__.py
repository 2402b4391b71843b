"""Tracking: what each run was, what it came to, and where to find it again."""
