"""Groups of documents that are copies of one another: which one stays, and which are shown.

Documents are numbered in the order of the corpus; a group is named by its smallest number.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from scalelab.data.hashing import U64
from scalelab.errors import DataError

SHOWN = 20
"""Largest groups that are shown."""


def packed(names: Sequence[str]) -> np.ndarray:
    """Return names as one array of bytes, so that they can be stored without pickling."""
    return np.frombuffer("\n".join(name.replace("\n", " ") for name in names).encode("utf-8"), np.uint8)


def unpacked(arrays: Sequence[np.ndarray], counts: Sequence[int]) -> list[str]:
    """Return the names of several packed arrays.

    Args:
        arrays: As `packed` returned them.
        counts: Names in each.
    """
    found: list[str] = []
    for array, n in zip(arrays, counts, strict=True):
        names = array.tobytes().decode("utf-8").split("\n") if n else []
        assert len(names) == n
        found += names
    return found


def superfluous(group: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return for each document whether a longer (or earlier) one of its group stays, shape (n,).

    Args:
        group: Number of each document's group, shape (n,).
        size: Bytes of each document, shape (n,).
    """
    order = np.lexsort((np.arange(len(group)), -size, group))
    is_first = np.ones(len(group), bool)
    is_first[1:] = group[order[1:]] != group[order[:-1]]
    found = np.ones(len(group), bool)
    found[order[is_first]] = False
    return found


def largest(group: np.ndarray, size: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the largest groups of more than one document, for the page.

    Args:
        group: Number of each document's group, shape (n,).
        size: Bytes of each document, shape (n,).
        names: Name of each document.
    """
    number, index, count = np.unique(group, return_index=True, return_counts=True)
    total = np.bincount(np.searchsorted(number, group), size, len(number))
    order = np.lexsort((index, -total, -count))[:SHOWN]
    return [
        {
            "documents": int(count[i]),
            "bytes": int(total[i]),
            "examples": [names[k] for k in np.flatnonzero(group == number[i])[:3]],
        }
        for i in order
        if count[i] > 1
    ]


def dropped_names(is_dropped: np.ndarray, hashes: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Return the hashes of the names of dropped documents, sorted.

    Args:
        is_dropped: Whether each document is dropped, shape (n,).
        hashes: Hash of each document's name, shape (n,).
        names: Name of each document, for the message.

    Raises:
        DataError: Two documents have one name, so a document that stays would be dropped with its namesake.
    """
    number, count = np.unique(hashes, return_counts=True)
    if len(number) < len(hashes):
        repeated = np.flatnonzero(np.isin(hashes, number[count > 1]))
        raise DataError(
            f"{len(repeated)} documents share a name with another one, such as {names[repeated[0]]!r}",
            where="the documents of the source",
            fix="name each file, record and package once in the source",
        )
    return np.unique(hashes[is_dropped].astype(U64))
