"""Mathematics of a page as TeX in the text, before an extractor drops it.

    <math>...<annotation encoding="application/x-tex">T</annotation></math>      $T$
    <script type="math/tex">T</script>                                           $T$
    <script type="math/tex; mode=display">T</script>                             $$T$$

MathML without TeX is left to the extractor, which keeps its symbols.
"""

import re
from html import escape, unescape

_MATHML = re.compile(r"<math\b[^>]*>(?:(?!</math).)*</math\s*>", re.IGNORECASE | re.DOTALL)
_ANNOTATION = re.compile(
    r"<annotation\b[^>]*encoding\s*=\s*[\"']application/x-tex[\"'][^>]*>(.*?)</annotation\s*>",
    re.IGNORECASE | re.DOTALL,
)
_DISPLAY = re.compile(r"<math\b[^>]*display\s*=\s*[\"']?block", re.IGNORECASE)
_SCRIPT = re.compile(
    r"<script\b[^>]*type\s*=\s*[\"']math/tex([^\"']*)[\"'][^>]*>(.*?)</script\s*>", re.IGNORECASE | re.DOTALL
)


def keep_mathematics(html: str) -> str:
    """Return a page with its mathematics as TeX between dollar signs."""
    if "math" not in html:
        return html
    html = _SCRIPT.sub(lambda m: _dollars(m[2], is_display="display" in m[1]), html)
    return _MATHML.sub(_mathml, html)


def _mathml(match: re.Match[str]) -> str:
    found = _ANNOTATION.search(match[0])
    if found is None:
        return match[0]
    return _dollars(unescape(found[1]), is_display=_DISPLAY.match(match[0]) is not None)


def _dollars(tex: str, *, is_display: bool) -> str:
    mark = "$$" if is_display else "$"
    return f"<span>{mark}{escape(tex.strip(), quote=False)}{mark}</span>"
