"""Extract: the main text of each page, with its tables, code and mathematics.

    resiliparse    Apache-2.0; the default where it is installed
    trafilatura    Apache-2.0; slower, drops more
    own            the standard library alone, where neither is installed
    union          the text of resiliparse; that of trafilatura where only it reads as prose

Not here: encodings, mathematics and the extractor of our own (extraction/).
Source: arXiv:2602.19548 (a union of extractors keeps more pages than any of them).
"""

import re
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import ClassVar, Literal

from scalelab.config import Count
from scalelab.data.curate.base import Arrays, CurationStage, Page, StageLedger, WebDocument
from scalelab.data.curate.extraction import own
from scalelab.data.curate.extraction.encodings import decoded
from scalelab.data.curate.extraction.mathematics import keep_mathematics
from scalelab.data.curate.extraction.nesting import MAX_DEPTH, is_too_deep
from scalelab.data.curate.stages.heuristics import Heuristics
from scalelab.data.curate.urls import MALFORMED, host_of, is_malformed
from scalelab.errors import DataError

Extractor = Literal["auto", "resiliparse", "trafilatura", "own", "union"]
_LIBRARIES = {
    "resiliparse": ("resiliparse",),
    "trafilatura": ("trafilatura",),
    "own": (),
    "union": ("resiliparse", "trafilatura"),
}
_LANGUAGE = re.compile(r"<html[^>]{0,300}?\s(?:xml:)?lang\s*=\s*[\"']?([A-Za-z]{2,3})", re.IGNORECASE)
_NUMBER = re.compile(r":\d+\Z")
"""Number of a record at the end of the name of its page. A page that is a file ends with its suffix."""
_BLANK_LINES = re.compile(r"\n[ \t]*(?:\n[ \t]*)+")


class Extract(CurationStage):
    """Pages in, documents out."""

    kind: Literal["extract"] = "extract"
    """Names this stage in CURATION_STAGES."""
    version: ClassVar[int] = 5
    extractor: Extractor = "auto"
    """auto is resiliparse where it is installed, else own."""
    min_characters: Count = 100
    """Characters of text below which a page is rejected."""

    def implementation(self) -> str:
        """The extractor that is used, with its version."""
        chosen = self._chosen()
        try:
            return " ".join([chosen, *(f"{name} {version(name)}" for name in _LIBRARIES[chosen])])
        except PackageNotFoundError as error:
            raise DataError(
                f"the extractor {chosen} needs {error.name}, which is not installed",
                where="stages: extract.extractor",
                fix="pip install 'scalelab[data,trafilatura]', or set extractor: own",
            ) from None

    def _chosen(self) -> str:
        return (
            ("resiliparse" if _is_installed("resiliparse") else "own")
            if self.extractor == "auto"
            else self.extractor
        )

    def apply(
        self, documents: Iterator[Page], decision: Arrays, ledger: StageLedger
    ) -> Iterator[WebDocument]:
        """Yield the text of each page that has some."""
        extract = EXTRACTORS[self._chosen()]
        for page in documents:
            document = self._document(page, extract, ledger)
            if document is not None:
                yield document

    def _document(self, page: Page, extract: Callable[[str], str], ledger: StageLedger) -> WebDocument | None:
        meta = dict(page.meta)
        empty = WebDocument(page.name, "", page.url, page.date, page.language, _domain(page), meta)
        ledger.count(MALFORMED, int(is_malformed(page.url)))
        if page.problem:
            ledger.reject(empty, page.problem)
            return None
        try:
            markup, encoding, is_corrected = decoded(page.data, page.charset)
        except ValueError as error:
            ledger.reject(empty, "no known encoding", str(error))
            return None
        ledger.count("stated encoding was wrong", int(is_corrected))
        ledger.count(f"encoding {encoding}")
        language = page.language
        if page.media == "html":
            stated = _LANGUAGE.search(markup[:4096])
            language = stated[1].lower()[:2] if stated else language
            if is_too_deep(markup):
                ledger.reject(empty, "markup cannot be parsed", f"nested more than {MAX_DEPTH:,} deep")
                return None
            try:
                text = extract(keep_mathematics(markup))
            except (RecursionError, ValueError, AssertionError, TypeError) as error:
                ledger.reject(empty, "markup cannot be parsed", f"{type(error).__name__}: {error}"[:200])
                return None
        else:
            text = markup
        text = _tidy(text)
        document = WebDocument(page.name, text, page.url, page.date, language, empty.domain, meta)
        if len(text) < self.min_characters:
            ledger.reject(document, "little or no text", f"{len(text)} characters")
            return None
        return document


def _tidy(text: str) -> str:
    text = text.replace("\r\n", "\n").replace("\r", "\n").encode("utf-8", "replace").decode("utf-8")
    text = "\n".join(line.rstrip(" \t") for line in text.split("\n"))
    return _BLANK_LINES.sub("\n\n", text).strip("\n")


def _domain(page: Page) -> str:
    if "package" in page.meta:
        return page.meta["package"]
    return (host_of(page.url) or _NUMBER.sub("", page.name).split("/")[0]).removeprefix("www.")


@cache
def _is_installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _resiliparse(html: str) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    return extract_plain_text(html, preserve_formatting=True, main_content=True, alt_texts=False)


def _trafilatura(html: str) -> str:
    import trafilatura

    return trafilatura.extract(html, include_tables=True, include_comments=False) or ""


def _union(html: str) -> str:
    first = _resiliparse(html)
    rules = Heuristics()
    if rules.reason_of(first) is None:
        return first
    second = _trafilatura(html)
    return second if rules.reason_of(second) is None else first


EXTRACTORS: dict[str, Callable[[str], str]] = {
    "resiliparse": _resiliparse,
    "trafilatura": _trafilatura,
    "own": own.extract,
    "union": _union,
}
