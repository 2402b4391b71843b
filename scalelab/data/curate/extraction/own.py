"""Main text of a page with the standard library alone, where no extractor is installed.

A page is cut into blocks at block elements. Blocks inside navigation, headers, footers, forms and
scripts are dropped, and so are blocks that are mostly links; short ones are kept where they are
headings, list items or table rows beside kept text. Preformatted text keeps its lines, a table row
is one line with its cells separated by tabs.

Source: Kohlschütter et al. 2010, boilerplate detection by link density and text length.
"""

from html.parser import HTMLParser

_BLOCKS = frozenset(
    [
        "address",
        "article",
        "aside",
        "blockquote",
        "body",
        "br",
        "caption",
        "center",
        "dd",
        "details",
        "dialog",
        "div",
        "dl",
        "dt",
        "fieldset",
        "figcaption",
        "figure",
        "footer",
        "form",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "header",
        "hr",
        "html",
        "legend",
        "li",
        "main",
        "nav",
        "ol",
        "option",
        "p",
        "pre",
        "section",
        "summary",
        "table",
        "tbody",
        "td",
        "tfoot",
        "th",
        "thead",
        "tr",
        "ul",
    ]
)
_DROPPED = frozenset(
    [
        "nav",
        "footer",
        "aside",
        "form",
        "script",
        "style",
        "noscript",
        "template",
        "select",
        "button",
        "svg",
        "head",
    ]
)
_VOID = frozenset(
    ["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"]
)
_SHORT_BUT_KEPT = frozenset(
    ["h1", "h2", "h3", "h4", "h5", "h6", "li", "dt", "dd", "tr", "pre", "caption", "figcaption"]
)
MAX_LINK_DENSITY = 0.5
MIN_BLOCK = 60
"""Characters of a paragraph from which it is text by itself."""


_ENDS = (("<!--", "-->"), ("<![", "]>"), ("<", ">"))
"""What opens a comment, a section and a tag, and what closes it."""


def _without_open_ends(html: str) -> str:
    """Return a page with what is opened and nowhere closed as text: the parser would look for each end anew."""
    for opening, closing in _ENDS:
        at = html.rfind(closing) + 1
        if html.find(opening, at) >= 0:
            html = html[:at] + html[at:].replace(opening, "&lt;" + opening[1:])
    return html


def extract(html: str) -> str:
    """Return the main text of a page."""
    parser = _Blocks()
    parser.feed(_without_open_ends(html))
    parser.close()
    parser.end_block()
    blocks = parser.blocks
    is_long = [is_good and len(text) >= MIN_BLOCK for text, _, is_good in blocks]
    kept = []
    for i, (text, tag, is_good) in enumerate(blocks):
        beside = any(is_long[max(0, i - 3) : i + 4])
        if is_good and (is_long[i] or tag == "pre" or (beside and tag in _SHORT_BUT_KEPT)):
            kept.append((text, tag))
    return "".join(
        f"{'' if i == 0 else chr(10) if tag in {'tr', 'li'} and kept[i - 1][1] == tag else chr(10) * 2}{text}"
        for i, (text, tag) in enumerate(kept)
    )


class _Blocks(HTMLParser):
    """Cuts a page into blocks: text, element, whether few of its characters are links."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[tuple[str, str, bool]] = []
        self._parts: list[str] = []
        self._dropped: list[str] = []
        self._open: list[str] = []
        self._links = self._in_links = self._in_pre = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "body" and "head" in self._dropped:
            self._dropped.clear()  # the end tag of the head may be left out
        if tag in _DROPPED:
            self.end_block()
            self._dropped.append(tag)
        elif tag == "a":
            self._in_links += 1
        elif tag in {"td", "th"}:
            if "".join(self._parts).strip():
                self._parts.append("\t")
            return
        elif tag == "br" and (self._in_pre or self._open):
            self._parts.append("\n" if self._in_pre else " ")
            return
        if tag in _BLOCKS:
            self.end_block()
            if tag not in _VOID:
                self._open.append(tag)
            self._in_pre += tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        if tag in _DROPPED:
            while self._dropped and self._dropped.pop() != tag:
                pass
        elif tag == "a":
            self._in_links = max(0, self._in_links - 1)
        elif tag in _BLOCKS and tag not in {"td", "th"}:
            self.end_block()
            if tag in self._open:
                while self._open.pop() != tag:
                    pass
            if tag == "pre":
                self._in_pre = max(0, self._in_pre - 1)

    def handle_data(self, data: str) -> None:
        if self._dropped:
            return
        self._parts.append(data)
        if self._in_links:
            self._links += len(data.strip())

    def end_block(self) -> None:
        raw = "".join(self._parts)
        if self._in_pre:
            text = raw.strip("\n").rstrip()
        else:
            text = "\t".join(" ".join(cell.split()) for cell in raw.split("\t")).strip()
        if text.strip():
            tag = next((t for t in reversed(self._open) if t not in {"tbody", "thead", "table"}), "p")
            density = self._links / len(text)
            self.blocks.append((text, tag, density < MAX_LINK_DENSITY))
        self._parts, self._links = [], 0
