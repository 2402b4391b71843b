"""How deeply the elements of a page are nested.

An extractor asks for every text which elements are around it, so a page of 16 MB of opening tags would take it hours.
Browsers stop at a depth of 512. Elements that end without a closing tag (p, li, td, ...) and those of formatting
(b, font, ...), which pages often leave open and parsers close, are not counted.
"""

import re

_TAG = re.compile(
    r"<(/?)(?:div|ul|ol|dl|table|blockquote|section|article|main|aside|header|footer|nav|fieldset|details|figure|center"
    r"|form|object|span|svg|template|[a-z0-9]+-[a-z0-9-]+)(?=[\s/>])",
    re.IGNORECASE,
)
MAX_DEPTH = 2048
"""Depth above which a page is rejected."""


def is_too_deep(markup: str) -> bool:
    """Return whether elements are nested more deeply than MAX_DEPTH."""
    if markup.count("<") <= MAX_DEPTH:
        return False
    depth = 0
    for match in _TAG.finditer(markup):
        depth = max(0, depth - 1) if match[1] else depth + 1
        if depth > MAX_DEPTH:
            return True
    return False
