"""Reports: curves as data, figures of them, and a page that holds both."""
