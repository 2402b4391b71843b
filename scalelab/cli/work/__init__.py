"""The work of the larger commands, imported when they run: their help must not wait for numpy or torch."""
