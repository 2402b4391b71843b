"""A Document as an HTML fragment for notebooks: no scripts, no styles, everything escaped."""

from collections.abc import Iterator, Sequence
from html import escape as _escape
from urllib.parse import quote

from scalelab.markup import printable
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

ALIGN = {"l": "left", "r": "right"}


def render_html(document: Document, *, detail: bool = False) -> str:
    """Return a document as an HTML fragment. A number carries its kind as a tooltip.

    Args:
        document: What to show.
        detail: Whether blocks that are for pages only are included.
    """
    blocks = document.blocks if detail else document.summary().blocks
    parts = [f"<h3>{_text(document.title)}</h3>"]
    for block in blocks:
        parts += _block(block)
    return "<div>" + "\n".join(parts) + "</div>"


def _block(block: Block) -> Iterator[str]:
    match block:
        case Heading():
            level = min(6, block.level + 2)
            yield f"<h{level}>{_text(block.text)}</h{level}>"
        case Paragraph():
            yield f"<p>{_inline(block.content)}</p>"
        case Bullets():
            yield "<ul>" + "".join(f"<li>{_inline(item)}</li>" for item in block.items) + "</ul>"
        case Facts():
            rows = "".join(
                f'<tr><th style="text-align:left">{_text(label)}</th>'
                f'<td style="text-align:left">{_inline(value)}</td></tr>'
                for label, value in block.rows
            )
            yield f"<table>{rows}</table>"
        case Table():
            cells = zip(block.columns, block.alignment, strict=True)
            head = "".join(f'<th style="text-align:{ALIGN[a]}">{_text(c)}</th>' for c, a in cells)
            body = "".join(f"<tr>{_cells(row, block.alignment)}</tr>" for row in block.rows)
            yield f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            if block.caption:
                yield f"<p>{_inline(block.caption)}</p>"
        case Verbatim():
            yield f"<pre>{_escape(printable(block.text, keep_lines=True))}</pre>"
        case Figure():
            source = quote(f"{block.name}.svg")
            yield f'<figure><img src="{source}" alt="{_text(block.name)}"/>'
            yield f"<figcaption>{_inline(block.caption)}</figcaption></figure>"


def _cells(row: Sequence[Content], alignment: str) -> str:
    return "".join(
        f'<td style="text-align:{ALIGN[a]}">{_inline(cell)}</td>'
        for cell, a in zip(row, alignment, strict=True)
    )


def _inline(content: Content) -> str:
    return "".join(map(_span, spans(content)))


def _span(span: Span) -> str:
    match span:
        case str():
            return _text(span)
        case Number():
            label = f" ({span.kind})" if span.labelled else ""
            return f'<span title="{span.kind}">{_text(span.text)}{label}</span>'
        case Strong():
            return f"<strong>{_text(span.text)}</strong>"
        case Code():
            return f"<code>{_text(span.text)}</code>"
        case Link():
            target = link_target(span.target)
            text = _text(span.text)
            return text if target is None else f'<a href="{_escape(target)}">{text}</a>'


def _text(text: str) -> str:
    return _escape(printable(text))
