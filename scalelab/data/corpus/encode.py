"""Documents to tokens in two passes over the source, so that no corpus need fit in memory.

    1) sketch every document, draw the tokenizer's sample; then choose sides, then train
    2) encode every document

The tokenizer learns from training documents alone: held-out text has no say in how text is
cut. One from a file learns nothing; it is checked on a sample of them. A source that changes
between the passes is refused.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain

import numpy as np

from scalelab.data.base import (
    DataConfig,
    EncodedDocument,
    SkippedDocuments,
    TextDocument,
    TextSource,
    TokenizerConfig,
)
from scalelab.data.corpus.sketches import Sketcher
from scalelab.data.corpus.split import Split, choose
from scalelab.data.hashing import content_hash, utf8_name
from scalelab.data.tokenizer import DocumentSample, TextTokenizer, train
from scalelab.errors import DataError
from scalelab.screen import progress

_BATCH = 2_000_000  # characters encoded at once


@dataclass(frozen=True, eq=False)
class FirstPassResult:
    """What the first pass found out."""

    tokenizer: TextTokenizer
    split: Split
    skips: SkippedDocuments
    largest_bytes: int
    """UTF-8 bytes of the largest cluster of near-copies."""


def read(config: DataConfig) -> FirstPassResult:
    """The first pass: sides and tokenizer.

    Raises:
        DataError: The source cannot be read, holds no text, or is too little to divide.
    """
    source: TextSource = config.source
    settings, skips = config.tokenizer, SkippedDocuments()
    is_trained = isinstance(settings, TokenizerConfig)
    if not is_trained:
        settings.load()  # a damaged one is refused before the text is read
    wanted = settings.train_bytes if is_trained else settings.sample_bytes
    # A quarter more than the held-out share takes away, since that share is not exact in a draw.
    sketcher, sample = Sketcher(), DocumentSample(int(1.25 * wanted / (1 - config.validation)))
    n = 0
    with closing(sketcher):
        for document in progress(source.documents(skips), "reading documents"):
            sample.add(n, sketcher.add(document.text), document.text)
            n += 1
        sketches = sketcher.finish()
    if n == 0:
        left_out = ", ".join(f"{count} {why}" for why, count in skips.counts.items())
        raise DataError(
            "the source holds no text" + (f" ({left_out})" if left_out else ""),
            where=f"source: {source.model_dump_json()}",
            fix="name files that hold text",
        )
    split = choose(sketches, config.validation)
    texts = sample.texts(split.is_validation, wanted)
    tokenizer = train(settings, texts) if is_trained else settings.load(texts)
    return FirstPassResult(tokenizer, split, skips, int(sketches.n_bytes[split.largest].sum()))


def encoded(config: DataConfig, reading: FirstPassResult) -> Iterator[EncodedDocument]:
    """The second pass: every document as tokens, in the order of the source.

    Raises:
        DataError: The source has changed since the first pass.
    """
    split, n = reading.split, len(reading.split.content)
    documents = config.source.documents(SkippedDocuments())
    at = 0
    for document, tokens in _encode(reading.tokenizer, progress(documents, "tokenising", n)):
        data = document.text.encode("utf-8")
        if at == n or content_hash(data) != int(split.content[at]):
            raise _changed(document.name)
        side = "validation" if split.is_validation[at] else "train"
        yield EncodedDocument(side, tokens, len(data))
        at += 1
    if at != n:
        raise _changed(f"{n} documents became {at}")


def names_of(config: DataConfig, places: np.ndarray) -> list[str]:
    """Names of the documents at some places of the source, ascending."""
    wanted = set(places.tolist())
    names = []
    for at, document in enumerate(config.source.documents(SkippedDocuments())):
        if at in wanted:
            names.append(utf8_name(document.name))
            if len(names) == len(wanted):
                break
    return names


def _encode(
    tokenizer: TextTokenizer, documents: Iterator[TextDocument]
) -> Iterator[tuple[TextDocument, np.ndarray]]:
    batch: list[TextDocument] = []
    size = 0
    end = np.array([tokenizer.end], np.int64)
    for document in chain(documents, [None]):
        if document is not None:
            batch.append(document)
            size += len(document.text)
        if batch and (document is None or size >= _BATCH):
            rows = tokenizer.encode([d.text for d in batch])
            yield from ((d, np.concatenate([row, end])) for d, row in zip(batch, rows, strict=True))
            batch, size = [], 0


def _changed(what: str) -> DataError:
    return DataError(
        "the source changed while it was being read",
        where=what,
        fix="wait until nothing writes to it, then run the same command again",
    )
