"""Reports of comparisons of recipes: the document, the figures, the page."""
