"""Mathematics of a page as TeX in the text, before an extractor drops it.

    <math>...<annotation encoding="application/x-tex">T</annotation></math>      $T$
    <script type="math/tex">T</script>                                           $T$
    <script type="math/tex; mode=display">T</script>                             $$T$$

MathML without TeX is left to the extractor, which keeps its symbols. A page is read once from left to
right, so that hostile markup, such as tags that are never closed, costs no more than its length.
"""

import re
from collections.abc import Iterator
from html import escape, unescape

_OPENING = {name: re.compile(rf"<{name}\b", re.IGNORECASE) for name in ("math", "annotation", "script")}
_CLOSING = {name: re.compile(rf"</{name}\s*>", re.IGNORECASE) for name in _OPENING}
_ANY = re.compile("")
_TEX_ANNOTATION = re.compile(r"encoding\s*=\s*[\"']application/x-tex[\"']", re.IGNORECASE)
_TEX_SCRIPT = re.compile(r"type\s*=\s*[\"']math/tex([^\"']*)[\"']", re.IGNORECASE)
_DISPLAY = re.compile(r"display\s*=\s*[\"']?block", re.IGNORECASE)


def keep_mathematics(html: str) -> str:
    """Return a page with its mathematics as TeX between dollar signs."""
    if "math" not in html:
        return html
    parts, at = [], 0
    for start, end, stated, _, content in _elements(html, "script", _TEX_SCRIPT):
        parts += [html[at:start], _dollars(content, is_display="display" in stated[1])]
        at = end
    html, parts, at = "".join([*parts, html[at:]]), [], 0
    for start, end, _, tag, content in _elements(html, "math", _ANY):
        annotation = next(_elements(content, "annotation", _TEX_ANNOTATION), None)
        if annotation is not None:
            tex = _dollars(unescape(annotation[-1]), is_display=_DISPLAY.search(tag) is not None)
            parts += [html[at:start], tex]
            at = end
    return "".join([*parts, html[at:]])


def _elements(
    html: str, name: str, attributes: re.Pattern[str]
) -> Iterator[tuple[int, int, re.Match[str], str, str]]:
    """Yield elements whose tag has some attributes: start, end, match of the attributes, tag, content."""
    at = 0
    while (opening := _OPENING[name].search(html, at)) is not None:
        tag_end = html.find(">", opening.end()) + 1
        if tag_end == 0:
            return
        at, tag = tag_end, html[opening.start() : tag_end]
        stated = attributes.search(tag)
        if stated is None:
            continue
        closing = _CLOSING[name].search(html, tag_end)
        if closing is None:
            return  # nor is any later one closed
        at = closing.end()
        yield opening.start(), at, stated, tag, html[tag_end : closing.start()]


def _dollars(tex: str, *, is_display: bool) -> str:
    mark = "$$" if is_display else "$"
    return f"<span>{mark}{escape(tex.strip(), quote=False)}{mark}</span>"
