"""Decontaminate: passages that hold-outs or evaluation sets have too are cut out.

A passage is a run of 13 words. It is cut with 200 characters on either side; pieces shorter than 200
characters go too, and a document that would be cut into more than 10 pieces, or that shares more than
`max_share` of its passages, is rejected. Passages that stand in more than `common` documents are phrases
of everybody and are not cut. Copies make no phrase of everybody: a document that shares more than
`max_share` is not counted, and near copies, which mostly agree in the least hash of their other passages,
count once.

Source: Brown et al. 2020, arXiv:2005.14165, appendix C.
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from scalelab.config import Count, Whole
from scalelab.data.base import SkippedDocuments
from scalelab.data.corpus.minhash import word_hashes, words_of
from scalelab.data.curate.base import (
    Arrays,
    CurationContext,
    CurationStage,
    StageLedger,
    WebDocument,
    are_in,
    excerpt,
)
from scalelab.data.curate.store import read_documents
from scalelab.data.files.plain import whole_text
from scalelab.data.files.records import record_format, text_records
from scalelab.data.hashing import U64, mix
from scalelab.errors import DataError

_WORD = re.compile(r"\w+")


class Decontaminate(CurationStage):
    """Cuts what hold-outs have."""

    kind: Literal["decontaminate"] = "decontaminate"
    """Names this stage in CURATION_STAGES."""
    version: ClassVar[int] = 3
    observes: ClassVar[bool] = True
    against: tuple[str, ...] = ()
    """Further files of evaluation texts: plain text, or records with a field `text`."""
    words: Annotated[Count, Field(ge=5, le=50)] = 13
    """Words of a passage."""
    common: Annotated[Count, Field(ge=1)] = 10
    """Unlike documents in which a passage may stand before it counts as everybody's."""
    around: Whole = 200
    """Characters that are cut on either side."""
    max_pieces: Count = 10
    """Pieces of a document at most."""
    max_share: Annotated[float, Field(strict=True, gt=0, le=1)] = 0.2
    """Share of shared passages, everybody's among them, from which a document is rejected whole."""

    def inputs(self) -> list[Path]:
        """The files of evaluation texts."""
        return [Path(path).expanduser() for path in self.against]

    def observe(self, documents: Iterator[WebDocument], context: CurationContext) -> Arrays:
        """Which passages of the held-out text stand in the shard, and in which unlike documents each does."""
        passages = self._held_out(context)
        is_found = np.zeros(len(passages), bool)
        place, sketch = [np.zeros(0, np.int64)], [np.zeros(0, U64)]
        for document in documents:
            found = _passages(words_of(document.text.encode("utf-8")), self.words)
            is_shared = are_in(found, passages)
            if not is_shared.any():
                continue
            places = np.searchsorted(passages, np.unique(found[is_shared]))
            is_found[places] = True
            if is_shared.mean() <= self.max_share:
                place.append(places)
                others = found[~is_shared] if not is_shared.all() else found
                sketch.append(np.full(len(places), others.min(), U64))
        found_at = np.flatnonzero(is_found)
        return {"found": found_at} | _distinct(place, sketch, self.common + 1)

    def decide(self, observations: list[Arrays], context: CurationContext) -> Arrays:
        """Return the passages that are cut, and all that are shared."""
        passages = self._held_out(context)
        is_found = np.zeros(len(passages), bool)
        for each in observations:
            is_found[each["found"]] = True
        pairs = _distinct(*([each[key] for each in observations] for key in ("place", "sketch")), None)
        is_common = np.bincount(pairs["place"], minlength=len(passages)) > self.common
        context.shown.update(
            {
                "passages of held-out text": len(passages),
                "found in the corpus": int(is_found.sum()),
                "of these common, and not cut": int(is_common.sum()),
            }
        )
        return {"passages": passages[is_found & ~is_common], "shared": passages[is_found]}

    def process(self, document: WebDocument, decision: Arrays, ledger: StageLedger) -> WebDocument | None:
        """Return a document without held-out passages."""
        passages = decision["passages"]
        found = _passages(words_of(document.text.encode("utf-8")), self.words)
        share = float(are_in(found, decision["shared"]).mean()) if len(found) else 0.0
        is_cut = are_in(found, passages)
        if share <= self.max_share and not is_cut.any():
            return document
        ledger.count("documents that share a passage")
        if share > self.max_share:
            ledger.reject(document, "shares held-out text", f"{share:.1%} of its passages")
            return None
        cuts = self._cuts(document.text, np.flatnonzero(is_cut).tolist())
        pieces = _between(document.text, cuts)
        kept = [piece for piece in pieces if len(piece) >= max(1, self.around)]
        if len(pieces) > self.max_pieces or not kept:
            ledger.reject(document, "little left without held-out text", f"{len(cuts)} cuts")
            return None
        ledger.count("passages cut", len(cuts))
        ledger.change(document, f"without: {excerpt(document.text[cuts[0][0] :])}")
        return WebDocument(**{**vars(document), "text": "\n\n".join(kept)})

    def _held_out(self, context: CurationContext) -> np.ndarray:
        """Return the hashes of the passages of all held-out text, sorted."""
        held_out = [path for files in context.holdouts.values() for path in files]
        passages = _passages_of_files(_stated(held_out), _stated(self.inputs()), self.words)
        if not len(passages) and not context.is_sample:
            raise DataError(
                f"the held-out text has no passage of {self.words} words",
                where="stages: decontaminate",
                fix="hold out more (holdout.sets), or name evaluation files with text in `against`",
            )
        return passages

    def _cuts(self, text: str, first_words: list[int]) -> list[tuple[int, int]]:
        """Return the parts of a text to cut, from and to, in characters.

        Args:
            text: Text of a document.
            first_words: Number of the first word of each passage to cut, ascending.
        """
        places = _word_places(text)
        cuts: list[tuple[int, int]] = []
        for i in first_words:
            start = max(0, places[i][0] - self.around)
            end = min(len(text), places[i + self.words - 1][1] + self.around)
            if cuts and start <= cuts[-1][1]:
                cuts[-1] = (cuts[-1][0], max(end, cuts[-1][1]))
            else:
                cuts.append((start, end))
        return cuts


def _word_places(text: str) -> list[tuple[int, int]]:
    """Return where each word that `words_of` finds stands in a text, from and to, in characters.

    Words are those of the whole text in lower case, which can have more characters than the text: the dotted
    capital I becomes two, the second of which belongs to no word.
    """
    lowered = text.lower()
    places = [match.span() for match in _WORD.finditer(lowered)]
    if len(lowered) == len(text):
        return places
    origin = [i for i, character in enumerate(text) for _ in character.lower()]
    return [(origin[start], origin[end - 1] + 1) for start, end in places]


def _stated(paths: Iterable[Path]) -> tuple[tuple[Path, int, int], ...]:
    """Return files, each with its size and time of change."""
    found = [(path, path.stat()) for path in paths]
    return tuple((path, status.st_size, status.st_mtime_ns) for path, status in found)


@lru_cache(maxsize=1)
def _passages_of_files(
    held_out: tuple[tuple[Path, int, int], ...], against: tuple[tuple[Path, int, int], ...], n: int
) -> np.ndarray:
    """Return the hashes of the runs of n words of all files, sorted; once for all shards of a process.

    Args:
        held_out: Files of documents, with what shows that they are the same.
        against: Files of evaluation texts.
        n: Words of a passage.
    """
    texts = (document.text for path, *_ in held_out for document in read_documents(path))
    further = (text for path, *_ in against for text in _texts_of(path))
    found = [_passages(words_of(text.encode("utf-8")), n) for text in chain(texts, further)]
    passages = np.unique(np.concatenate([np.zeros(0, U64), *found]))
    passages.flags.writeable = False
    return passages


def _passages(words: list[bytes], n: int) -> np.ndarray:
    """Return the hash of each run of n words, in their order."""
    hashes = word_hashes(words)
    count = max(0, len(hashes) - n + 1)
    found = np.zeros(count, U64)
    for i in range(n):
        found = mix(found + hashes[i : count + i])
    return found


def _distinct(place: list[np.ndarray], sketch: list[np.ndarray], most: int | None) -> dict[str, np.ndarray]:
    """Return distinct pairs of passage and sketch of a document, at most so many of each passage."""
    places, sketches = np.concatenate(place), np.concatenate(sketch)
    order = np.lexsort((sketches, places))
    places, sketches = places[order], sketches[order]
    is_new = np.ones(len(places), bool)
    is_new[1:] = (places[1:] != places[:-1]) | (sketches[1:] != sketches[:-1])
    places, sketches = places[is_new], sketches[is_new]
    rank = np.arange(len(places)) - np.searchsorted(places, places)
    kept = rank < (len(places) if most is None else most)
    return {"place": places[kept], "sketch": sketches[kept]}


def _between(text: str, cuts: list[tuple[int, int]]) -> list[str]:
    ends = [0, *(end for _, end in cuts)]
    starts = [*(start for start, _ in cuts), len(text)]
    return [piece for a, b in zip(ends, starts, strict=True) if (piece := text[a:b].strip())]


def _texts_of(path: Path) -> Iterator[str]:
    if record_format(path) is None:
        yield whole_text(path)
    else:
        yield from (text for _, text in text_records(path, path.name, "text", SkippedDocuments()))
