"""Sources of text, one file each; the table is SOURCES in data."""
