"""Files of text and of records as people keep them: which there are, and how each is read."""
