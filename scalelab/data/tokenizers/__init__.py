"""Tokenizers that come from outside of the corpus."""
