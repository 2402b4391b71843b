"""Which documents are held out: whole clusters of near-copies, so that none crosses over.

    sketch    14 bands x 8 rows of MinHash over shingles of 5 words (minhash.py)
    cluster   documents that share any band, and theirs, and so on
    choose    clusters in the order of a hash of their smallest content hash, each taken when
              it brings the held-out bytes nearer to the share that was asked for

So the choice depends on what the documents say, not on their order or names. Two documents
whose shingles overlap by three quarters are joined 97 times in 100, by half 1 in 6 (measured
on 6000 Python files). A document of fewer than 5 words is compared exactly. A script
that is written without spaces has few words, so near-copies in it are found less often.

Where the source states sides they stay, and training documents that share a band with a
validation document are named as copies.

Source: Leskovec et al., Mining of Massive Datasets, 3.4 (bands).
"""

from dataclasses import dataclass

import numpy as np

from scalelab.data.corpus.sketches import Sketches
from scalelab.data.hashing import U64, mix
from scalelab.errors import DataError

_SIDE = U64(0x5CA1AB1E)  # sets the order of clusters apart from every other use of their hash


@dataclass(frozen=True, eq=False)
class Split:
    """The side of every document."""

    is_validation: np.ndarray
    """Shape (n,), in the order in which the documents came."""
    content: np.ndarray
    """Hash of each text, uint64, shape (n,)."""
    largest: np.ndarray
    """Places of the documents of the largest cluster of near-copies."""
    n_clusters: int
    is_copy: np.ndarray
    """Whether a document is on the training side and shares a band with a validation document, shape (n,): only where
    the source states sides."""


def choose(sketches: Sketches, validation: float) -> Split:
    """The side of every document, near-copies together; as the source states them where it does.

    Args:
        sketches: Sketches of all documents.
        validation: Share of the bytes to hold out, 0 to 1.

    Raises:
        DataError: One side would be empty.
    """
    if sketches.sides:
        return _stated(sketches)
    n = len(sketches.content)
    _, cluster = np.unique(clusters(sketches.bands), return_inverse=True)
    n_clusters = int(cluster.max()) + 1 if n else 0
    size = np.bincount(cluster, sketches.n_bytes, n_clusters).astype(np.int64)
    name = np.full(n_clusters, 2**64 - 1, U64)
    np.minimum.at(name, cluster, sketches.content)

    missing = validation * float(size.sum())
    held_out = np.zeros(n_clusters, bool)
    least = size.min(initial=0)
    for i in np.argsort(mix(name ^ _SIDE), kind="stable"):
        if missing <= least / 2:
            break
        if size[i] < 2 * missing:  # with it we are nearer than without
            held_out[i] = True
            missing -= size[i]
    if held_out.all() or not held_out.any():
        empty = "training" if held_out.any() else "validation"
        raise DataError(
            f"too little text to divide: {n} documents in {n_clusters} groups of near-copies"
            f" leave the {empty} side empty",
            where=f"{size.sum():,} bytes, of which {validation:g} are to be held out",
            fix="give more documents, hold out more (validation: 0.2), or cut a text file into"
            " smaller ones (document: paragraph)",
        )
    count = np.bincount(cluster, minlength=n_clusters)
    largest = np.flatnonzero(cluster == int(np.argmax(count)))
    return Split(held_out[cluster], sketches.content, largest, n_clusters, np.zeros(n, bool))


def _stated(sketches: Sketches) -> Split:
    """Return the sides that the source states. Raises DataError where some are open, or one would be empty."""
    sides = set(sketches.sides)
    if sides != {"train", "validation"}:
        only = "" if None in sides else str(*sides)
        raise DataError(
            f"every document of the source is on the {only} side"
            if only
            else f"the source states no side for {sketches.sides.count(None)} of {len(sketches.sides)} documents",
            where="the documents of the source",
            fix="hold out some documents and train on the others"
            if only
            else "mix sources that hold text out (curated with hold-outs) with others of their kind, or name the"
            " validation text (held_out)",
        )
    is_validation = np.array([side == "validation" for side in sketches.sides])
    is_copy = ~is_validation & share_bands(sketches.bands, sketches.bands[is_validation])
    if (is_validation | is_copy).all():
        raise DataError(
            f"all {is_copy.sum()} training documents are validation text or near-copies of it",
            where="the documents of the source",
            fix="add training text that the validation text is not part of",
        )
    _, cluster, count = np.unique(clusters(sketches.bands), return_inverse=True, return_counts=True)
    largest = np.flatnonzero(cluster == int(np.argmax(count)))
    return Split(is_validation, sketches.content, largest, len(count), is_copy)


def clusters(bands: np.ndarray) -> np.ndarray:
    """For each document the smallest place in its cluster: those that share a band, closed.

    Args:
        bands: Band hashes, shape (n, n_bands); equal only counts within a column.
    """
    parent = np.arange(len(bands))
    for column in bands.T:
        order = np.argsort(column, kind="stable")
        is_same = column[order[1:]] == column[order[:-1]]
        one, other = order[1:][is_same], order[:-1][is_same]
        while one.size:
            top, next_top = parent[one], parent[other]
            apart = top != next_top
            one, other, top, next_top = one[apart], other[apart], top[apart], next_top[apart]
            np.minimum.at(parent, np.maximum(top, next_top), np.minimum(top, next_top))
            while not np.array_equal(parent, above := parent[parent]):
                parent = above
    return parent


def share_bands(bands: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether each document shares any band with one of other documents, shape (n,).

    Args:
        bands: Band hashes, shape (n, n_bands); equal only counts within a column.
        others: Those of the other documents, shape (m, n_bands).
    """
    found = np.zeros(len(bands), bool)
    for column, other in zip(bands.T, others.T, strict=True):
        found |= np.isin(column, other)
    return found
