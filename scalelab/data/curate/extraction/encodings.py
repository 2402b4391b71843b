"""The text of a page's bytes: by its byte-order mark, the server, the page, or by trial.

    byte-order mark > stated by the server > stated in the first 2048 bytes > UTF-8
        > UTF-8 with a few damaged bytes > windows-1252

A stated encoding that does not fit the bytes is not believed; UTF-8 that decodes is, because hardly any
text in another encoding happens to be valid UTF-8. So is UTF-8 with damaged bytes where at most MAX_REPLACED
of the characters are damaged and more of them are valid characters of several bytes: a page in
windows-1252 has hardly any of these. What remains is windows-1252, as browsers do.

Source: WHATWG Encoding Standard, HTML Standard 13.2.3 (determining the character encoding).
"""

import codecs
import re

_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_META = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]{2,40})", re.IGNORECASE)
_XML = re.compile(rb"^\s*<\?xml[^>]{0,100}?encoding\s*=\s*[\"']([A-Za-z0-9_.:-]{2,40})", re.IGNORECASE)
_AS_BROWSERS_DO = {"iso8859-1": "cp1252", "ascii": "cp1252", "gb2312": "gb18030", "gbk": "gb18030"}
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")
_NOT_OF_PAGES = frozenset(["idna", "punycode", "raw-unicode-escape", "unicode-escape", "utf-7"])
"""Codecs of Python that no page is in; the Encoding Standard leaves them out."""
MAX_REPLACED = 0.01
"""Share of characters that may be undecodable."""


def decoded(data: bytes, charset: str = "") -> tuple[str, str, bool]:
    """Return the text of bytes, the encoding, and whether it is another one than was stated.

    Args:
        data: The page.
        charset: Encoding that the server stated; empty where it stated none.

    Raises:
        ValueError: The bytes are no text in any encoding that was tried.
    """
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return _checked(data[len(mark) :].decode(encoding, "replace")), encoding, False
    stated = [name for name in (charset, *_declared(data)) if name]
    candidates = [found for name in stated if (found := _known(name)) is not None]
    for i, encoding in enumerate([*candidates, "utf-8"]):
        try:
            return _checked(data.decode(encoding)), encoding, bool(candidates) and i > 0
        except (UnicodeDecodeError, ValueError):
            continue
    text = data.decode("utf-8", "replace")
    damaged = text.count("\ufffd")
    n_valid = len(_BEYOND_ASCII.findall(text)) - damaged
    if damaged < n_valid and damaged <= MAX_REPLACED * len(text):
        return _checked(text), "utf-8", bool(candidates) and candidates[0] != "utf-8"
    return _checked(data.decode("cp1252", "replace")), "cp1252", bool(candidates)


def _declared(data: bytes) -> list[str]:
    head = data[:2048]
    found = [match[1].decode("ascii") for form in (_XML, _META) if (match := form.search(head))]
    # A page that could be searched for ASCII is in no encoding of two bytes.
    return [name for name in found if not name.lower().startswith("utf-16")]


def _known(name: str) -> str | None:
    try:
        found = codecs.lookup(name).name
        "".encode(found)  # a codec of bytes, such as zip, is no encoding of text
    except (LookupError, TypeError, ValueError):  # the codec `undefined` refuses all with a UnicodeError
        return None
    if found in _NOT_OF_PAGES:
        return None
    return _AS_BROWSERS_DO.get(found, found)


def _checked(text: str) -> str:
    bad = text.count("\ufffd") + text.count("\0")
    if bad > MAX_REPLACED * max(1, len(text)):
        raise ValueError(f"{bad:,} of {len(text):,} characters cannot be decoded")
    return text.replace("\0", "")
