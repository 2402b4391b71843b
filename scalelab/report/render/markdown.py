"""A Document as Markdown (CommonMark with tables), everything from names and data escaped.

MLflow shows such a page with raw HTML allowed, so `<`, `>` and `&` become entities, and the marks
of Markdown are preceded by a backslash.
"""

import re
from collections.abc import Iterator
from urllib.parse import quote

from scalelab.markup import escape_markdown, printable
from scalelab.report.document import (
    Block,
    Bullets,
    Code,
    Content,
    Document,
    Facts,
    Figure,
    Heading,
    Link,
    Number,
    Paragraph,
    Span,
    Strong,
    Table,
    Verbatim,
    spans,
)
from scalelab.report.render.characters import link_target


def render_markdown(document: Document, *, title: bool = True, detail: bool = True) -> str:
    """Return a document as Markdown, a newline at its end.

    Args:
        document: What to show.
        title: Whether it begins with the title as heading of level 1.
        detail: Whether blocks that are for pages only are included.
    """
    blocks = document.blocks if detail else document.summary().blocks
    parts = [f"# {escape_markdown(document.title)}"] if title else []
    parts += [text for block in blocks if (text := "\n".join(_block(block)))]
    return "\n\n".join(parts) + "\n"


def _block(block: Block) -> Iterator[str]:
    match block:
        case Heading():
            yield f"{'#' * block.level} {escape_markdown(block.text)}"
        case Paragraph():
            yield _inline(block.content)
        case Bullets():
            for item in block.items:
                yield f"- {_inline(item)}"
        case Facts():
            if block.rows:
                yield "| | |"
                yield "|---|---|"
            for label, value in block.rows:
                yield f"| {escape_markdown(label)} | {_inline(value)} |"
        case Table():
            yield "| " + " | ".join(escape_markdown(name) for name in block.columns) + " |"
            yield "|" + "|".join("---:" if a == "r" else "---" for a in block.alignment) + "|"
            for row in block.rows:
                yield "| " + " | ".join(_inline(cell) for cell in row) + " |"
            if block.caption:
                yield ""
                yield _inline(block.caption)
        case Verbatim():
            text = printable(block.text, keep_lines=True)
            fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
            yield f"{fence}{block.language}\n{text}\n{fence}"
        case Figure():
            png, svg = (quote(f"{block.name}.{end}") for end in ("png", "svg"))
            yield f"![{escape_markdown(block.name)}]({png})"
            yield ""
            yield f"{_inline(block.caption)} ([{escape_markdown(block.name)}.svg]({svg}))"


def _inline(content: Content) -> str:
    parts = list(spans(content))
    return "".join(_span(part, first=i == 0) for i, part in enumerate(parts))


def _span(span: Span, *, first: bool) -> str:
    match span:
        case str():
            text = escape_markdown(span) if first else escape_markdown(f".{span}")[1:]
            # a dot in front keeps the escape of line starts to the beginning of the content
            return text
        case Number():
            return escape_markdown(span.text) + (f" ({span.kind})" if span.labelled else "")
        case Strong():
            return f"**{escape_markdown(span.text)}**"
        case Code():
            return _code(printable(span.text))
        case Link():
            target = link_target(span.target)
            return (
                escape_markdown(span.text) if target is None else f"[{escape_markdown(span.text)}]({target})"
            )


def _code(text: str) -> str:
    """A code span; pipes are escaped, because tables would split at them."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{text}{space}{fence}".replace("|", "\\|")
