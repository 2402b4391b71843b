"""The stages of a curation, one a file."""
