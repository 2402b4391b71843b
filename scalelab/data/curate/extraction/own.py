"""Main text of a page with the standard library alone, where no extractor is installed.

A page is cut into blocks at block elements. Blocks inside navigation, headers, footers, forms and
scripts are dropped, and so are blocks that are mostly links; short ones are kept where they are
headings, list items or table rows beside kept text. Preformatted text keeps its lines, a table row
is one line with its cells separated by tabs.

Source: Kohlschütter et al. 2010, boilerplate detection by link density and text length.
"""

from collections import Counter
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
_AROUND_ROWS = frozenset(["tbody", "thead", "table"])
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


class _OpenTags:
    """Elements that are open, innermost last. A page may leave millions open: none is searched for."""

    def __init__(self) -> None:
        self._tags: list[tuple[str, str]] = []
        self._counts: Counter[str] = Counter()

    def __contains__(self, tag: str) -> bool:
        return self._counts[tag] > 0

    def __len__(self) -> int:
        return len(self._tags)

    @property
    def innermost(self) -> str:
        """The innermost element other than those around the rows of a table; `p` where there is none."""
        return self._tags[-1][1] if self._tags else "p"

    def open(self, tag: str) -> None:
        self._tags.append((tag, self.innermost if tag in _AROUND_ROWS else tag))
        self._counts[tag] += 1

    def close(self, tag: str) -> None:
        """Close an element and those within it; every one where it is not open."""
        closed = ""
        while self._tags and closed != tag:
            closed, _ = self._tags.pop()
            self._counts[closed] -= 1

    def clear(self) -> None:
        self._tags.clear()
        self._counts.clear()


class _Blocks(HTMLParser):
    """Cuts a page into blocks: text, element, whether few of its characters are links."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[tuple[str, str, bool]] = []
        self._parts: list[str] = []
        self._dropped = _OpenTags()
        self._open = _OpenTags()
        self._links = self._in_pre = 0
        self._is_in_link = self._has_text = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "body" and "head" in self._dropped:
            self._dropped.clear()  # the end tag of the head may be left out
        if tag in _DROPPED:
            self.end_block()
            self._dropped.open(tag)
        elif tag == "a":
            # An open link ends here, as in a browser; without href it is the mark of a place.
            self._is_in_link = any(name == "href" for name, _ in attrs)
        elif tag in {"td", "th"}:
            if self._has_text:
                self._parts.append("\t")
            return
        elif tag == "br" and (self._in_pre or self._open):
            self._parts.append("\n" if self._in_pre else " ")
            return
        if tag in _BLOCKS:
            self.end_block()
            if tag not in _VOID:
                self._open.open(tag)
            self._in_pre += tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        if tag in _DROPPED:
            self._dropped.close(tag)
        elif tag == "a":
            self._is_in_link = False
        elif tag in _BLOCKS and tag not in {"td", "th"}:
            self.end_block()
            if tag in self._open:
                self._open.close(tag)
            if tag == "pre":
                self._in_pre = max(0, self._in_pre - 1)

    def handle_data(self, data: str) -> None:
        if self._dropped:
            return
        self._parts.append(data)
        n_characters = len(data.strip())
        self._has_text = self._has_text or n_characters > 0
        if self._is_in_link:
            self._links += n_characters

    def end_block(self) -> None:
        raw = "".join(self._parts)
        if self._in_pre:
            text = raw.strip("\n").rstrip()
        else:
            text = "\t".join(" ".join(cell.split()) for cell in raw.split("\t")).strip()
        if text.strip():
            density = self._links / len(text)
            self.blocks.append((text, self._open.innermost, density < MAX_LINK_DENSITY))
        self._parts, self._links, self._has_text = [], 0, False
