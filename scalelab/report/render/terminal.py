"""A Document as terminal text: wrapped to a width, tables aligned, no escape sequences.

No line is wider than the width asked for. A table that does not fit becomes one record a row.
"""

import shutil
from collections.abc import Iterator

from scalelab.markup import printable
from scalelab.report.document import (
    Block,
    Bullets,
    Content,
    Document,
    Facts,
    Figure,
    Heading,
    Paragraph,
    Table,
    Verbatim,
    plain,
)
from scalelab.report.render.characters import pad, width, wrap

MOST = 100
"""Columns; longer lines are hard to read however wide the terminal is."""
LEAST = 20
FALLBACK = 80
"""Columns where the width of the terminal is unknown, as in a pipe."""


def terminal_width() -> int:
    """Return the columns of this terminal ($COLUMNS, or what the terminal says), within LEAST to MOST."""
    columns = shutil.get_terminal_size((FALLBACK, 24)).columns
    return max(LEAST, min(MOST, columns))


def render_terminal(document: Document, columns: int | None = None, *, title: bool = False) -> str:
    """Return the summary of a document as text.

    Args:
        document: What to show; blocks with `detail` are left out.
        columns: Greatest width of a line, at least 20; None for that of this terminal.
        title: Whether the title is the first line.
    """
    to = terminal_width() if columns is None else max(LEAST, columns)
    out = wrap(printable(document.title), to) if title else []
    before: Block | None = None
    for block in document.summary().blocks:
        lines = list(_block(block, to))
        if not lines:
            continue
        if out and not isinstance(before, Heading):
            out.append("")
        out += lines
        before = block
    return "\n".join(line.rstrip() for line in out)


def _block(block: Block, to: int) -> Iterator[str]:
    match block:
        case Heading():
            yield from wrap(printable(block.text), to)
        case Paragraph():
            yield from wrap(_text(block.content), to)
        case Bullets():
            for item in block.items:
                yield from wrap(_text(item), to, "  - ", "    ")
        case Facts():
            yield from _facts(block, to)
        case Table():
            yield from _table(block, to)
            if block.caption:
                yield from wrap(_text(block.caption), to, "  ", "  ")
        case Verbatim():
            for line in printable(block.text, keep_lines=True).split("\n"):
                yield from _kept(line, to)
        case Figure():
            yield from wrap(f"{block.name}.png: {_text(block.caption)}", to, "  ", "  ")


def _facts(block: Facts, to: int) -> Iterator[str]:
    rows = [(printable(label), _text(value)) for label, value in block.rows]
    most = max((width(label) for label, _ in rows), default=0)
    label_width = min(most, max(LEAST // 2, to // 3))
    for label, value in rows:
        if width(label) > label_width:
            yield from wrap(label, to, "  ", "    ")
            yield from wrap(value, to, "    ", "    ")
        else:
            lead = "  " + pad(label, label_width) + "  "
            yield from (wrap(value, to, lead, " " * len(lead)) if value else [lead])


def _table(block: Table, to: int) -> Iterator[str]:
    head = [printable(name) for name in block.columns]
    rows = [[_text(cell) for cell in row] for row in block.rows]
    widths = [max(width(row[i]) for row in [head, *rows]) for i in range(len(head))]
    shown, hidden = list(range(len(head))), []
    for name in block.optional:
        if _table_width(widths, shown) <= to:
            break
        hidden.append(name)
        shown.remove(block.columns.index(name))
    if _table_width(widths, shown) > to:
        yield from _records(head, rows, to)
        return
    for row in [head, *rows]:
        yield "  " + "  ".join(pad(row[i], widths[i], block.alignment[i]) for i in shown)
    if hidden:
        yield from wrap(f"(no room for: {', '.join(map(printable, hidden))})", to, "  ", "  ")


def _table_width(widths: list[int], shown: list[int]) -> int:
    return 2 + sum(widths[i] for i in shown) + 2 * (len(shown) - 1)


def _records(head: list[str], rows: list[list[str]], to: int) -> Iterator[str]:
    """A wide table as one record a row: the first cell, then a line for each other column."""
    for row in rows:
        yield from wrap(f"{head[0]}: {row[0]}" if head[0] else row[0], to, "  ", "    ")
        yield from _facts_lines(head[1:], row[1:], to)


def _facts_lines(labels: list[str], values: list[str], to: int) -> Iterator[str]:
    most = min(max((width(label) for label in labels), default=0), to // 3)
    for label, value in zip(labels, values, strict=True):
        if not value:
            continue
        lead = "    " + pad(label, most) + "  "
        if width(lead) > to // 2 or width(label) > most:
            yield from wrap(f"{label}: {value}", to, "    ", "      ")
        else:
            yield from wrap(value, to, lead, " " * width(lead))


def _kept(line: str, to: int) -> Iterator[str]:
    """A line that keeps its spaces, cut where it is too wide."""
    if width(line) <= to:
        yield line
        return
    part = ""
    for c in line:
        if width(part) + width(c) > to:
            yield part
            part = ""
        part += c
    yield part


def _text(content: Content) -> str:
    return printable(plain(content))
