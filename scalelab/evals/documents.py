"""Named sets of documents that a model is measured on: which they are, and how they were chosen."""

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
from scalelab.data.base import Document, Skips, SplitName, TokenSource
from scalelab.data.hashing import U64, content_hash, mix
from scalelab.data.shards import Corpus, open_corpus
from scalelab.errors import DataError
from scalelab.evals.checkpoint import Checkpoint

NO_FOLDER = "(no folder)"
"""Domain of a document that lies in no folder, where others do."""
_DRAW = U64(0x3C6EF372)  # sets this draw apart from every other use of the content hash


class PerplexitySet(Config):
    """A named set of documents to measure loss on."""

    name: Name
    """What tables and figures call it."""
    source: plugin(SOURCES) = None
    """Where its documents come from. None: see `corpus`."""
    corpus: Literal["validation"] | None = None
    """The held-out documents of the corpus that the checkpoint was trained on. Give this or
    `source`. Checkpoints of different corpora are then measured on different documents."""
    domain: str | None = Field(default=None, min_length=1)
    """What all of its documents are; None: the first folder of each one's name, if there is one."""
    max_documents: Count | None = None
    """Most documents: drawn by the hash of their text, so that place and length have no say,
    and the set for fewer is part of the set for more. None: all."""

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_given(cls, data: object) -> object:
        if isinstance(data, dict) and data.get("source", "") is None:
            return {key: value for key, value in data.items() if key != "source"}
        return data

    @model_validator(mode="after")
    def _one_origin_of_text(self) -> Self:
        if (self.source is None) == (self.corpus is None):
            raise ValueError("give either source or corpus, and not both")
        if isinstance(self.source, TokenSource):
            raise ValueError(f"source {self.source.kind!r} is tokens without text")
        return self


@dataclass(frozen=True, eq=False)
class DocumentSet:
    """The documents of a set, and how they were chosen."""

    name: str
    documents: tuple[Document, ...]
    domains: tuple[str, ...]
    """Of each document; all empty where there is nothing to tell apart."""
    n_there: int
    """Documents with text that there are."""
    n_planned: int | None
    """Documents that were asked for; None: all."""
    skips: dict[str, Any]
    """What was left out, and why: reason to count and examples."""

    @property
    def digest(self) -> str:
        """Twelve hex digits of the texts in their order: equal digests, equal documents."""
        named = (content_hash(d.text.encode("utf-8")).to_bytes(8, "little") for d in self.documents)
        return hashlib.sha256(b"".join(named)).hexdigest()[:12]


def read(config: PerplexitySet, checkpoint: Checkpoint) -> DocumentSet:
    """The documents that a config names.

    Raises:
        DataError: They cannot be read, there are none, or the set is the checkpoint's held-out
            text and that is unknown or is no text.
    """
    skips = Skips()
    if config.source is not None:
        documents: Iterator[Document] = config.source.documents(skips)
    else:
        documents = _held_out(checkpoint)
    return _chosen(config.name, documents, config.domain, config.max_documents, skips)


def of_texts(name: str, texts: Sequence[str], domain: str | None = None) -> DocumentSet:
    """A set of texts that are in hand already; an empty one is left out and counted.

    Raises:
        DataError: None of them holds anything, or one of them is no text.
    """
    skips = Skips()
    named = (Document(str(i), text) for i, text in enumerate(texts))
    return _chosen(name, named, domain, None, skips)


def corpus_texts(corpus: Corpus, split: SplitName) -> Iterator[str]:
    """Every document of one side of a corpus, as text.

    Raises:
        DataError: The corpus is not made of text.
    """
    tokenizer = corpus.load_tokenizer()
    if tokenizer is None:
        raise DataError(
            f"the corpus is made of {corpus.tokenizer}, which is no text",
            where=f"corpus {corpus.digest} ({corpus.path})",
            fix="name a set of text (source: ...)",
        )
    tokens, start = corpus.tokens(split), 0
    for end in tokens.ends.tolist():
        row = tokens.windows(np.array([start]), end - start)[0]
        assert row[-1] == tokenizer.end
        yield tokenizer.decode(row[:-1])
        start = end


def _held_out(checkpoint: Checkpoint) -> Iterator[Document]:
    if checkpoint.corpus is None:
        raise DataError(
            "nobody wrote down which corpus the checkpoint was trained on",
            where=str(checkpoint.path),
            fix="name the documents with `source` in place of `corpus: validation`",
        )
    corpus = open_corpus(checkpoint.corpus)
    for i, text in enumerate(corpus_texts(corpus, "validation")):
        yield Document(f"validation document {i}", text)


def _chosen(
    name: str,
    documents: Iterable[Document],
    domain: str | None,
    wanted: int | None,
    skips: Skips,
) -> DocumentSet:
    """The documents with text, at most `wanted` of them, in the order in which they come."""
    kept: list[tuple[int, int, Document]] = []
    n_there = 0
    for document in documents:
        if not document.text:
            skips.note("empty", document.name)
            continue
        try:
            data = document.text.encode("utf-8")
        except UnicodeEncodeError:
            raise DataError(
                "the text holds half of a surrogate pair, which is no character",
                where=f"set {name}, document {document.name}",
                fix="mend or remove the document",
            ) from None
        rank = int(mix(np.array([content_hash(data)], U64) ^ _DRAW)[0])
        heapq.heappush(kept, (-rank, -n_there, document))
        n_there += 1
        if wanted is not None and len(kept) > wanted:
            heapq.heappop(kept)
    if not kept:
        raise DataError(
            f"the set {name} holds no text",
            where=f"set {name}; left out: {dict(skips.counts) or 'nothing'}",
            fix="name documents that hold text",
        )
    used = tuple(d for _, _, d in sorted(kept, key=lambda entry: -entry[1]))
    domains = tuple(_first_folder(d.name) if domain is None else domain for d in used)
    if any(domains):
        domains = tuple(one or NO_FOLDER for one in domains)
    return DocumentSet(name, used, domains, n_there, wanted, skips.to_dict())


def _first_folder(name: str) -> str:
    """The first folder of a document's name; empty where it lies in none."""
    parts = PurePosixPath(name).parts
    return parts[0] if len(parts) > 1 else ""
