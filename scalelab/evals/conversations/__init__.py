"""Sources of conversations, one file each; the registry is CONVERSATIONS in evals."""
