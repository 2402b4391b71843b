"""Named sets of documents for perplexity: their settings, and how documents are selected."""

import hashlib
import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from scalelab.config import Config, Count, Name, plugin
from scalelab.data import SOURCES
from scalelab.data.base import SkippedDocuments, SplitName, TextDocument, TokenSource
from scalelab.data.corpus.shards import Corpus, open_corpus
from scalelab.data.hashing import U64, content_hash, mix
from scalelab.errors import DataError
from scalelab.evals.checkpoint import Checkpoint

NO_FOLDER = "(no folder)"
"""Domain of a document outside of any folder, if others are in folders."""
_DRAW = U64(0x3C6EF372)  # separates this draw from other uses of the content hash


class PerplexitySet(Config):
    """A named set of documents to measure loss on."""

    name: Name
    """Name in tables and figures."""
    source: plugin(SOURCES) = None
    """Source of the documents. None: see `corpus`."""
    corpus: Literal["validation"] | None = None
    """The held-out documents of the corpus that the checkpoint was trained on. Give this or
    `source`. Checkpoints of different corpora are then evaluated on different documents."""
    domain: str | None = Field(default=None, min_length=1)
    """Domain of all documents; None: the first folder of each document's name, if there is one."""
    max_documents: Count | None = None
    """Maximum number of documents, selected by the hash of their text, so position and length do not
    matter and a smaller set is part of a larger one. None: all."""

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_given(cls, data: object) -> object:
        if isinstance(data, dict) and data.get("source", "") is None:
            return {key: value for key, value in data.items() if key != "source"}
        return data

    @model_validator(mode="after")
    def _one_origin_of_text(self) -> Self:
        if (self.source is None) == (self.corpus is None):
            raise ValueError("give either source or corpus, not both")
        if isinstance(self.source, TokenSource):
            raise ValueError(f"source {self.source.kind!r} is tokens without text")
        return self


@dataclass(frozen=True, eq=False)
class DocumentSet:
    """The documents of a set, and how they were selected."""

    name: str
    documents: tuple[TextDocument, ...]
    domains: tuple[str, ...]
    """Domain of each document; all empty if there are no domains."""
    n_available: int
    """Documents with text that exist."""
    n_planned: int | None
    """Documents requested; None: all."""
    skips: dict[str, Any]
    """Documents left out: reason to count and examples."""

    @property
    def digest(self) -> str:
        """Twelve hex digits of the texts in order: equal digests mean equal documents."""
        named = (content_hash(d.text.encode("utf-8")).to_bytes(8, "little") for d in self.documents)
        return hashlib.sha256(b"".join(named)).hexdigest()[:12]


def read_documents(config: PerplexitySet, checkpoint: Checkpoint) -> DocumentSet:
    """Return the documents of a set.

    Raises:
        DataError: They cannot be read, there are none, or the set is the checkpoint's held-out
            text and its corpus is not recorded or is not text.
    """
    skips = SkippedDocuments()
    if config.source is not None:
        documents: Iterator[TextDocument] = config.source.documents(skips)
    else:
        documents = _held_out(checkpoint)
    return _chosen(config.name, documents, config.domain, config.max_documents, skips)


def from_texts(name: str, texts: Sequence[str], domain: str | None = None) -> DocumentSet:
    """Return a set of given texts; empty ones are left out and counted.

    Raises:
        DataError: All texts are empty, or one is not valid Unicode.
    """
    skips = SkippedDocuments()
    named = (TextDocument(str(i), text) for i, text in enumerate(texts))
    return _chosen(name, named, domain, None, skips)


def corpus_texts(corpus: Corpus, split: SplitName) -> Iterator[str]:
    """Yield every document of one split of a corpus as text.

    Raises:
        DataError: The corpus is not text.
    """
    tokenizer = corpus.load_tokenizer()
    if tokenizer is None:
        raise DataError(
            f"the corpus is made of {corpus.tokenizer}, which is not text",
            where=f"corpus {corpus.digest} ({corpus.path})",
            fix="name a set of text (source: ...)",
        )
    tokens, start = corpus.tokens(split), 0
    for end in tokens.ends.tolist():
        row = tokens.windows(np.array([start]), end - start)[0]
        assert row[-1] == tokenizer.end
        yield tokenizer.decode(row[:-1])
        start = end


def _held_out(checkpoint: Checkpoint) -> Iterator[TextDocument]:
    if checkpoint.corpus is None:
        raise DataError(
            "the checkpoint's training corpus is not recorded",
            where=str(checkpoint.path),
            fix="name the documents with `source` instead of `corpus: validation`",
        )
    corpus = open_corpus(checkpoint.corpus)
    for i, text in enumerate(corpus_texts(corpus, "validation")):
        yield TextDocument(f"validation document {i}", text)


def _chosen(
    name: str,
    documents: Iterable[TextDocument],
    domain: str | None,
    wanted: int | None,
    skips: SkippedDocuments,
) -> DocumentSet:
    """Return the documents with text, at most `wanted` of them, in the order of the source."""
    kept: list[tuple[int, int, TextDocument]] = []
    n_available = 0
    for document in documents:
        if not document.text:
            skips.note("empty", document.name)
            continue
        try:
            data = document.text.encode("utf-8")
        except UnicodeEncodeError:
            raise DataError(
                "the text has half of a surrogate pair, which is not a character",
                where=f"set {name}, document {document.name}",
                fix="correct or remove the document",
            ) from None
        rank = int(mix(np.array([content_hash(data)], U64) ^ _DRAW)[0])
        heapq.heappush(kept, (-rank, -n_available, document))
        n_available += 1
        if wanted is not None and len(kept) > wanted:
            heapq.heappop(kept)
    if not kept:
        raise DataError(
            f"the set {name} holds no text",
            where=f"set {name}; left out: {dict(skips.counts) or 'nothing'}",
            fix="name documents that contain text",
        )
    used = tuple(d for _, _, d in sorted(kept, key=lambda entry: -entry[1]))
    domains = tuple(_first_folder(d.name) if domain is None else domain for d in used)
    if any(domains):
        domains = tuple(one or NO_FOLDER for one in domains)
    return DocumentSet(name, used, domains, n_available, wanted, skips.to_dict())


def _first_folder(name: str) -> str:
    """Return the first folder of a document's name; empty if it is in none."""
    parts = PurePosixPath(name).parts
    return parts[0] if len(parts) > 1 else ""
