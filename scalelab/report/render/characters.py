"""Characters that may be shown to people, and how many terminal columns they take.

Not here: what may be shown at all (scalelab/markup.py).
"""

import re
import unicodedata
from urllib.parse import quote

from scalelab.markup import printable


def link_target(target: str) -> str | None:
    """Return a link's target, quoted for Markdown and HTML; None if it would run code."""
    if re.match(r"[\s\x00-\x20]*(javascript|data|vbscript)\s*:", target, re.IGNORECASE):
        return None
    return quote(printable(target), safe="/:#?&=%.~+@,;-_")


def width(text: str) -> int:
    """Return the number of terminal columns that a printable text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def pad(text: str, to: int, align: str = "l") -> str:
    """Return the text filled up with spaces to `to` columns, on the right ("l") or the left ("r")."""
    space = " " * max(0, to - width(text))
    return text + space if align == "l" else space + text


def wrap(text: str, to: int, first: str = "", more: str = "") -> list[str]:
    """Return lines of at most `to` columns; words longer than a line are cut.

    Args:
        text: Printable text.
        to: Columns, at least 1 more than the indents take.
        first: Indent of the first line.
        more: Indent of the others.
    """
    lines, line, empty = [], first, True
    for word in text.split():
        if not empty and width(line) + 1 + width(word) <= to:
            line += " " + word
            continue
        if not empty:
            lines.append(line)
            line = more
        while width(line) + width(word) > to:
            room = max(1, to - width(line))
            cut = _fitting(word, room)
            lines.append(line + word[:cut])
            line, word = more, word[cut:]
        line += word
        empty = not word
        if empty:
            line = more
    if not empty or not lines:
        lines.append(line.rstrip() if empty else line)
    return lines


def _fitting(word: str, room: int) -> int:
    """Number of leading characters that take at most `room` columns; at least one."""
    used = 0
    for i, c in enumerate(word):
        used += width(c)
        if used > room:
            return max(1, i)
    return len(word)
