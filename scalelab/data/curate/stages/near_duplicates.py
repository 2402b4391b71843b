"""Near duplicates: documents that share most of their text, by MinHash over the whole corpus.

    candidates    documents that agree in one of 14 bands of 8 hashes, of shingles of 5 words
    verified      those whose 112 hashes agree in at least `threshold`: the estimate of the Jaccard
                  similarity of their shingles, standard error sqrt(J (1 - J) / 112), .04 at .7
    cluster       verified pairs, and theirs, and so on; the longest document stays

Without the verification a chain of chance agreements joins thousands of unlike documents.

Memory: 590 bytes and the name of each document while it decides.
Source: Broder 1997; Leskovec et al., Mining of Massive Datasets, 3.4.
Not here: the hashes (data/corpus/minhash.py).
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from scalelab.data.corpus.minhash import folded, least_hashes_of
from scalelab.data.curate.base import (
    Arrays,
    CurationContext,
    CurationStage,
    StageLedger,
    WebDocument,
    is_in,
    name_hash,
)
from scalelab.data.curate.clusters import dropped_names, largest, packed, superfluous, unpacked
from scalelab.data.hashing import U64

_BATCH_BYTES = 2**21


class NearDuplicates(CurationStage):
    """Rejects near copies."""

    kind: Literal["near_duplicates"] = "near_duplicates"
    """Names this stage in CURATION_STAGES."""
    observes: ClassVar[bool] = True
    threshold: Annotated[float, Field(strict=True, ge=0.5, le=1)] = 0.7
    """Jaccard similarity from which two documents count as near copies. The bands find pairs at .8 in 92 of
    100 cases, at .7 in 56, at .6 in 21."""

    def observe(self, documents: Iterator[WebDocument], context: CurationContext) -> Arrays:
        """Bands, hashes, size and name of each document."""
        del context
        bands, least, size, hashes, names, batch = [], [], [], [], [], []
        waiting = 0

        def hashed() -> None:
            found = least_hashes_of(batch)
            bands.append(folded(found))
            least.append(found.astype(np.uint32))
            batch.clear()

        for document in documents:
            data = document.text.encode("utf-8")
            batch.append(data)
            size.append(len(data))
            hashes.append(name_hash(document))
            names.append(document.name)
            waiting += len(data)
            if waiting >= _BATCH_BYTES:
                hashed()
                waiting = 0
        hashed()
        return {
            "bands": np.concatenate(bands),
            "least": np.concatenate(least),
            "size": np.array(size, np.int64),
            "name_hash": np.array(hashes, U64),
            "names": packed(names),
        }

    def decide(self, observations: Sequence[Arrays], context: CurationContext) -> Arrays:
        """Return the names of near copies."""
        bands, least, size, hashes = (
            np.concatenate([each[key] for each in observations])
            for key in ("bands", "least", "size", "name_hash")
        )
        names = unpacked(
            [each["names"] for each in observations], [len(each["size"]) for each in observations]
        )
        one, other = verified_pairs(bands, least, self.threshold)
        group = connected(len(size), one, other)
        context.shown["clusters"] = largest(group, size, names)
        return {"dropped": dropped_names(superfluous(group, size), hashes, names)}

    def process(self, document: WebDocument, decision: Arrays, ledger: StageLedger) -> WebDocument | None:
        """Return a document that is no near copy."""
        if is_in(name_hash(document), decision["dropped"]):
            ledger.reject(document, "near copy of another document")
            return None
        return document


def verified_pairs(bands: np.ndarray, least: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of documents that share a band and agree in enough hashes.

    Args:
        bands: Band hashes, shape (n, n_bands).
        least: Least hashes, shape (n, n_hashes).
        threshold: Share of the hashes that have to agree.

    Returns:
        Numbers of the documents of each pair, two arrays of one shape.
    """
    pairs = []
    for column in bands.T:
        order = np.argsort(column, kind="stable")
        ordered = column[order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        first = np.repeat(order[starts], np.diff(np.r_[starts, len(order)]))  # the first of each bucket
        pairs += [np.stack([order[:-1], order[1:]], 1)[ordered[1:] == ordered[:-1]]]
        pairs += [np.stack([first, order], 1)[first != order]]
    found = np.unique(np.sort(np.concatenate([np.zeros((0, 2), np.int64), *pairs]), axis=1), axis=0)
    agree = np.array([np.mean(least[i] == least[j]) for i, j in found])
    kept = found[agree >= threshold] if len(found) else found
    return kept[:, 0], kept[:, 1]


def connected(n: int, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return for each of n documents the smallest number in its cluster, shape (n,).

    Args:
        n: Number of documents.
        one: First documents of pairs.
        other: Second documents of pairs.
    """
    parent = np.arange(n)
    while one.size:
        top, next_top = parent[one], parent[other]
        apart = top != next_top
        one, other, top, next_top = one[apart], other[apart], top[apart], next_top[apart]
        np.minimum.at(parent, np.maximum(top, next_top), np.minimum(top, next_top))
        while not np.array_equal(parent, above := parent[parent]):
            parent = above
    return parent
