"""Sources of pages: files of markup and archives, and the documentation packages of a Debian system."""
