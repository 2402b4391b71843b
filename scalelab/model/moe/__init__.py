"""Mixtures of experts: transformers whose feed-forward is chosen token by token."""
