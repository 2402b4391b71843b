"""The report of a curation: page and figure."""
