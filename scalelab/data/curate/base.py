"""What a page, a web document, a source of pages and a curation stage are.

    source of pages ──pages──▶ extract ──documents──▶ stage ──documents──▶ stage ──▶ ...

A stage sees the corpus as shards, each a generator of documents, in up to three steps:

    observe   one shard ─▶ arrays         what the stage has to know of it
    decide    arrays of all shards ─▶ arrays   what it then does with every document
    apply     one shard, the decision ─▶ documents, rejects

`observe` and `apply` depend on one shard (and the decision) alone, so shards can be worked on in any
order, by any number of processes, and again after an interruption, with the same bytes as a result.
A stage without `observe` decides on each document by itself.

Not here: how shards are stored (store.py), in which order things run (pipeline.py).
"""

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from scalelab.config import Config
from scalelab.data.base import HashFile
from scalelab.data.hashing import U64, content_hash

Arrays = Mapping[str, np.ndarray]
"""What a stage knows or decides: arrays by name, stored without pickling."""
MAX_PAGE_BYTES = 16 * 2**20
"""Largest page; a larger one is rejected without being read whole."""
EXAMPLES = 3
"""Documents shown of each reason, and of those kept, by each stage."""


@dataclass(frozen=True)
class Page:
    """A page as it was fetched."""

    name: str
    """Unique within the source, and the same in every run: path, or place in an archive."""
    data: bytes
    """Markup or text, not yet decoded."""
    media: str = "html"
    """html, or text: a page whose text was extracted elsewhere (WET, JSONL, parquet)."""
    url: str = ""
    date: str = ""
    """Date of the fetch, ISO 8601, where it is known."""
    charset: str = ""
    """Encoding that the server stated."""
    language: str = ""
    """Language that the server stated."""
    meta: Mapping[str, str] = field(default_factory=dict)
    """What else the source knows, such as the package and its licence."""
    problem: str = ""
    """Reason for which the page could not be read; it is then rejected, and its data is empty."""


@dataclass(frozen=True)
class WebDocument:
    """The text of a page on its way through the stages."""

    name: str
    text: str
    url: str = ""
    date: str = ""
    language: str = ""
    """ISO 639-1: as the page states it; as found in the text from the stage `language` on."""
    domain: str = ""
    """Domain of the text: host or package; a class of text from the stage `domains` on."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Values of JSON types that stages add, such as a quality score."""

    def with_meta(self, **values: Any) -> "WebDocument":
        """Return the document with further values in `meta`."""
        return replace(self, meta={**self.meta, **values})

    @property
    def n_bytes(self) -> int:
        """UTF-8 bytes of the text."""
        return len(self.text.encode("utf-8"))


def name_hash(document: "WebDocument | Page") -> int:
    """64 bits that name a document, whatever its text has become."""
    return content_hash(document.name.encode("utf-8"))


def name_hashes(names: list[int]) -> np.ndarray:
    """Return hashes of names as a sorted array, for `is_in`."""
    return np.unique(np.array(names, U64))


def is_in(value: int, ordered: np.ndarray) -> bool:
    """Whether a 64-bit value is in a sorted array."""
    return bool(are_in(np.array([value], U64), ordered)[0])


def are_in(values: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """Return for each value whether it is in a sorted array; numpy.isin would sort that array each time."""
    if not len(ordered):
        return np.zeros(len(values), bool)
    at = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    return ordered[at] == values


@dataclass(frozen=True)
class CurationContext:
    """What `observe` and `decide` may use beside the documents."""

    holdouts: Mapping[str, list[Path]]
    """Files of the hold-outs that were cut so far, by name."""
    shown: dict[str, Any] = field(default_factory=dict)
    """Findings for the page, of JSON types: clusters, rates, weights. Filled by `decide`."""
    is_sample: bool = False
    """Whether only a sample of the pages is curated: a stage with too little to decide from then passes all."""


@dataclass
class StageLedger:
    """What happened to the documents of one shard: every document that came in is accounted for.

    Args:
        on_reject: Takes document, reason and detail of each one that is rejected.
        on_hold_out: Takes hold-out and document of each one that is cut for it.
    """

    on_reject: Callable[[WebDocument, str, str], object] = lambda document, reason, detail: None
    on_hold_out: Callable[[str, WebDocument], object] = lambda name, document: None
    counts: Counter[str] = field(default_factory=Counter)
    """Findings by name, such as masked addresses."""
    n_changed: int = 0
    """Documents whose text was changed."""
    changed: list[tuple[int, str, str]] = field(default_factory=list)
    """Hash of the name, name, and text around the change of a few changed documents."""

    def reject(self, document: WebDocument, reason: str, detail: str = "") -> None:
        """Leave a document out, for a reason that is a name of few words; detail holds values."""
        self.on_reject(document, reason, detail)

    def hold_out(self, name: str, document: WebDocument) -> None:
        """Move a document into a hold-out."""
        self.on_hold_out(name, document)

    def count(self, finding: str, n: int = 1) -> None:
        """Count a finding."""
        if n:
            self.counts[finding] += n

    def change(self, document: WebDocument, around: str) -> None:
        """Note that the text of a document was changed; `around` is the text around a change."""
        self.n_changed += 1
        self.changed.append((name_hash(document), document.name, around))
        if len(self.changed) > 8 * EXAMPLES:
            self.changed = sorted(self.changed)[:EXAMPLES]


class PageSource(Config):
    """A place that pages come from. Members add `kind: Literal[...]` and their settings."""

    @abstractmethod
    def fingerprint(self, hash_file: HashFile) -> str:
        """Hex digits that change when any page does.

        Raises:
            DataError: There is nothing to read, or it cannot be read.
        """

    @abstractmethod
    def shards(self, shard_bytes: int) -> list[list[str]]:
        """Return groups of places (files), each of about `shard_bytes` stored bytes, in a fixed order."""

    @abstractmethod
    def pages(self, places: list[str]) -> Iterator[Page]:
        """Yield the pages of a group, in a fixed order, one in memory at a time.

        Raises:
            DataError: A file is damaged or cut short.
        """

    def file_of(self, place: str) -> Path | None:
        """Return the file of a place, which `fingerprint` hashes; None where a place is no file.

        Whoever reads a place compares its file with what was hashed, as another machine may have another one.
        """
        del place

    def implementation(self) -> str:
        """Return names and versions of the libraries that read the pages, for the key of the first stage."""
        return ""

    def facts(self) -> dict[str, Any]:
        """Return what the page of the report shows of the source, of JSON types."""
        return {}


class CurationStage(Config):
    """One step of curation. Members add `kind: Literal[...]` and their settings.

    A member defines `process`, or `apply` where one document can become none or several.
    """

    version: ClassVar[int] = 1
    """Raised when the stage would give something else for the same settings."""
    observes: ClassVar[bool] = False
    """Whether `observe` has to see the whole corpus first."""
    libraries: ClassVar[tuple[str, ...]] = ()
    """Distributions that fit what the stage decides by."""
    cuts_holdouts: ClassVar[bool] = False
    """Whether documents leave for hold-outs here."""

    def inputs(self) -> list[Path]:
        """Return files that settings name, whose contents belong to the stage's key."""
        return []

    def implementation(self) -> str:
        """Return names and versions of the libraries that do the work, for the stage's key.

        Raises:
            DataError: The stage does nothing without a library, and it is not installed.
        """
        return versions_of(self.libraries)

    def observe(self, documents: Iterator[WebDocument], context: CurationContext) -> Arrays:
        """Return what the stage has to know of one shard; one document in memory at a time."""
        raise NotImplementedError

    def decide(self, observations: Sequence[Arrays], context: CurationContext) -> Arrays:
        """Return what is done with every document, from the observations of all shards in order.

        Each is read from the disk when it is asked for.

        Raises:
            DataError: There is too little to decide from.
        """
        del observations, context
        return {}

    def apply(
        self, documents: Iterator[WebDocument], decision: Arrays, ledger: StageLedger
    ) -> Iterator[WebDocument]:
        """Yield the documents of one shard that are kept, in their order; the rest goes to the ledger."""
        for document in documents:
            kept = self.process(document, decision, ledger)
            if kept is not None:
                yield kept

    def process(self, document: WebDocument, decision: Arrays, ledger: StageLedger) -> WebDocument | None:
        """Return one document as it goes on; None where the ledger has it as rejected or held out."""
        raise NotImplementedError


def versions_of(libraries: Sequence[str]) -> str:
    """Return the names of distributions, each with its version where it is installed."""
    found = []
    for name in libraries:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} not installed")
    return ", ".join(found)


def excerpt(text: str, around: int = 0, length: int = 240) -> str:
    """Return a part of a text on one line, `length` characters around a place, with dots where more follows."""
    start = max(0, around - length // 3)
    part = text[start : start + length]
    if start + length < len(text):
        part = (part if text[start + length].isspace() else part.rpartition(" ")[0] or part) + " ..."
    return " ".join(part.split())
