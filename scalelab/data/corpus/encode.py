"""Documents to tokens in two passes over the source, so that no corpus need fit in memory.

    1) sketch every document, draw the tokenizer's sample; then choose sides, then train
    2) encode every document

The tokenizer learns from training documents alone: held-out text has no say in how text is
cut. One from a file learns nothing; it is checked on a sample of them. A source that changes
between the passes is refused.

Where text is held out from another source (`held_out`), its documents come first. It is divided as it would be
alone, and what of it is not validation text is not trained on. Of the source itself, documents that share a band
with a validation document are left out. So they are where the source states sides itself: what one part of a mixture
holds out may be training text of another part.
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
from scalelab.data.corpus.sketches import Sketcher, Sketches
from scalelab.data.corpus.split import Split, choose, share_bands
from scalelab.data.hashing import content_hash, draw_documents, utf8_name
from scalelab.data.tokenizer import DocumentSample, TextTokenizer, train
from scalelab.errors import DataError
from scalelab.screen import progress

_BATCH = 2_000_000  # characters encoded at once


@dataclass(frozen=True, eq=False)
class FirstPassResult:
    """What the first pass found out."""

    tokenizer: TextTokenizer
    split: Split
    """Division of the text in which validation documents are held out."""
    content: np.ndarray
    """Hash of each text, held-out ones first, uint64, shape (n,)."""
    sides: np.ndarray
    """Side of each: VALIDATION, TRAINING or LEFT_OUT, shape (n,)."""
    skips: SkippedDocuments
    largest_bytes: int
    """UTF-8 bytes of the largest cluster of near-copies."""


LEFT_OUT, TRAINING, VALIDATION = 0, 1, 2
_TRAIN_SHARE = 0x7A11  # number of the draw of `train_share`


def read(config: DataConfig) -> FirstPassResult:
    """The first pass: sides and tokenizer.

    Raises:
        DataError: The source cannot be read, holds no text, or is too little to divide.
    """
    settings, skips = config.tokenizer, SkippedDocuments()
    is_trained = isinstance(settings, TokenizerConfig)
    if not is_trained:
        settings.load()  # a damaged one is refused before the text is read
    wanted = settings.train_bytes if is_trained else settings.sample_bytes
    divided: TextSource = config.source if config.held_out is None else config.held_out
    # A quarter more than the held-out share takes away, since that share is not exact in a draw.
    sketcher, sample = Sketcher(), DocumentSample(int(1.25 * wanted / (1 - config.validation)))
    counts = []
    with closing(sketcher):
        for source in dict.fromkeys((divided, config.source)):
            n = 0
            for document in progress(source.documents(skips), "reading documents"):
                content = sketcher.add(document.text, document.side)
                if not counts:
                    sample.add(n, content, document.text)
                n += 1
            if n == 0:
                raise _without_text(source, skips)
            counts.append(n)
        sketches = sketcher.finish()
    split = choose(_first(sketches, counts[0]), config.validation)
    texts = sample.texts(split.is_validation | split.is_copy, wanted)
    tokenizer = train(settings, texts) if is_trained else settings.load(texts)
    if config.held_out is None:
        sides = np.where(split.is_validation, VALIDATION, np.where(split.is_copy, LEFT_OUT, TRAINING))
        copies = np.flatnonzero(split.is_copy)
    else:
        if len(counts) == 1:  # the source is the held-out one: its documents come again
            sketches = _twice(sketches)
        sides = _sides_apart(sketches, split, counts[0])
        copies = counts[0] + np.flatnonzero(sides[counts[0] :] == LEFT_OUT)
    for name in names_of(config, copies[:5]):
        skips.note("validation text, or a near-copy of it", name)
    skips.counts["validation text, or a near-copy of it"] += max(0, len(copies) - 5)
    skips.counts = +skips.counts
    if config.train_share < 1:
        at = np.flatnonzero(sides == TRAINING)
        n_bytes = sketches.n_bytes[at]
        drawn = draw_documents(
            sketches.content[at], n_bytes, config.train_share * n_bytes.sum(), _TRAIN_SHARE
        )
        sides[at[~drawn]] = LEFT_OUT
    largest = int(sketches.n_bytes[split.largest].sum())
    return FirstPassResult(tokenizer, split, sketches.content, sides, skips, largest)


def _sides_apart(sketches: Sketches, split: Split, n_held_out: int) -> np.ndarray:
    """Sides of held-out documents and, after them, of those of the source."""
    sides = np.full(len(sketches.content), LEFT_OUT)
    sides[:n_held_out][split.is_validation] = VALIDATION
    copies = share_bands(sketches.bands[n_held_out:], sketches.bands[:n_held_out][split.is_validation])
    sides[n_held_out:][~copies] = TRAINING
    stated = np.array([side == "validation" for side in sketches.sides], bool)
    if stated.size:  # what a source holds out itself is not trained on either
        sides[n_held_out:][stated[n_held_out:]] = LEFT_OUT
    return sides


def _first(sketches: Sketches, n: int) -> Sketches:
    sides = sketches.sides[:n]
    return Sketches(
        sketches.content[:n], sketches.n_bytes[:n], sketches.bands[:n], sides if any(sides) else ()
    )


def _twice(sketches: Sketches) -> Sketches:
    parts = (sketches.content, sketches.n_bytes, sketches.bands)
    return Sketches(*(np.concatenate([part, part]) for part in parts), sketches.sides * 2)


def _without_text(source: TextSource, skips: SkippedDocuments) -> DataError:
    left_out = ", ".join(f"{count} {why}" for why, count in skips.counts.items())
    return DataError(
        "the source holds no text" + (f" ({left_out})" if left_out else ""),
        where=f"source: {source.model_dump_json()}",
        fix="name files that hold text",
    )


def _documents(config: DataConfig) -> Iterator[TextDocument]:
    """Documents of both passes: held-out ones, where they come from another source, then those of the source."""
    if config.held_out is not None:
        yield from config.held_out.documents(SkippedDocuments())
    yield from config.source.documents(SkippedDocuments())


def encoded(config: DataConfig, reading: FirstPassResult) -> Iterator[EncodedDocument]:
    """The second pass: every document of a side as tokens, in the order of the source.

    Raises:
        DataError: The source has changed since the first pass.
    """
    n, at = len(reading.content), 0

    def kept() -> Iterator[tuple[int, TextDocument]]:
        nonlocal at
        for document in progress(_documents(config), "tokenising", n):
            if at == n or content_hash(document.text.encode("utf-8")) != int(reading.content[at]):
                raise _changed(document.name)
            side, at = int(reading.sides[at]), at + 1
            if side != LEFT_OUT:
                yield side, document

    for side, document, tokens in _encode(reading.tokenizer, kept()):
        name = "validation" if side == VALIDATION else "train"
        yield EncodedDocument(name, tokens, len(document.text.encode("utf-8")), domain=document.domain)
    if at != n:
        raise _changed(f"{n} documents became {at}")


def names_of(config: DataConfig, places: np.ndarray) -> list[str]:
    """Names of the documents at some places of both passes, ascending."""
    wanted = set(places.tolist())
    names = []
    for at, document in enumerate(_documents(config)):
        if len(names) == len(wanted):
            break
        if at in wanted:
            names.append(utf8_name(document.name))
    return names


def _encode(
    tokenizer: TextTokenizer, documents: Iterator[tuple[int, TextDocument]]
) -> Iterator[tuple[int, TextDocument, np.ndarray]]:
    batch: list[tuple[int, TextDocument]] = []
    size = 0
    end = np.array([tokenizer.end], np.int64)
    for each in chain(documents, [None]):
        if each is not None:
            batch.append(each)
            size += len(each[1].text)
        if batch and (each is None or size >= _BATCH):
            rows = tokenizer.encode([document.text for _, document in batch])
            for (side, document), row in zip(batch, rows, strict=True):
                yield side, document, np.concatenate([row, end])
            batch, size = [], 0


def _changed(what: str) -> DataError:
    return DataError(
        "the source changed while it was being read",
        where=what,
        fix="wait until nothing writes to it, then run the same command again",
    )
