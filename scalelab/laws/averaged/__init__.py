"""The soft-max law averaged over its settings by how each forecast larger compute (law.py)."""
