"""The listing of `scalelab runs` as text, for tests."""

from scalelab.report.listing.runs import listing_document
from scalelab.report.render.terminal import render_terminal


def listing(root, name, columns=200):
    """Return the listing of one name, or of all, at a terminal width."""
    return render_terminal(listing_document(root, name), columns)


def notes(text):
    """Return the notes of a listing, by run or stage."""
    lines = [line.removeprefix("  - ") for line in text.splitlines() if line.startswith("  - ")]
    return dict(line.split(": ", 1) for line in lines)
