"""A linear classifier of texts over hashed words and pairs of words.

    features    words and pairs of adjacent words, hashed into 2^18 places, present or not, length 1
    model       logistic regression with L2 (scikit-learn); its weights are stored, and applied by numpy

Examples are drawn by the hash of their names, so the same ones whatever the number of processes.

Source: Joachims 1998 (linear models of text); Weinberger et al. 2009, arXiv:0902.2206 (hashed features).
"""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from scalelab.data.corpus.minhash import word_hashes, words_of
from scalelab.data.curate.base import Arrays
from scalelab.data.hashing import U64, mix
from scalelab.errors import DataError

PLACES = 2**18
_MAX_BYTES = 50_000
"""Bytes of a text that are looked at."""


def features(text: str) -> np.ndarray:
    """Return the places of a text's words and pairs of words, sorted, each once."""
    data = text[:_MAX_BYTES].encode("utf-8")
    hashes = word_hashes(words_of(data))
    pairs = mix(hashes[:-1] * U64(0x9E3779B97F4A7C15) + hashes[1:])
    return np.unique(np.concatenate([hashes, pairs]) & U64(PLACES - 1)).astype(np.int32)


@dataclass
class Examples:
    """A few examples of each label: those with the smallest hashes.

    Args:
        most: Examples of a label at most.
    """

    most: int
    _found: dict[int, list[tuple[int, int, np.ndarray]]] = field(default_factory=dict)
    """Heaps, the largest hash first: negative hash, negative number of the offer, places."""
    _n_offered: int = 0

    def add(self, label: int, order: int, text: str) -> None:
        """Offer one example."""
        found = self._found.setdefault(label, [])
        self._n_offered += 1
        if len(found) < self.most:
            heapq.heappush(found, (-order, -self._n_offered, features(text)))
        elif order < -found[0][0]:
            heapq.heapreplace(found, (-order, -self._n_offered, features(text)))

    def arrays(self) -> Arrays:
        """The examples as arrays."""
        rows = [
            (label, -order, places)
            for label, found in sorted(self._found.items())
            for order, _, places in sorted(found, key=lambda each: each[:2], reverse=True)
        ]
        return {
            "label": np.array([label for label, _, _ in rows], np.int32),
            "order": np.array([order for _, order, _ in rows], U64),
            "length": np.array([len(places) for _, _, places in rows], np.int64),
            "places": np.concatenate([np.zeros(0, np.int32), *(places for _, _, places in rows)]),
        }


@dataclass(frozen=True, eq=False)
class ExampleSet:
    """Examples of the whole corpus."""

    label: np.ndarray
    order: np.ndarray
    rows: list[np.ndarray]
    """Places of each example."""

    @classmethod
    def merged(cls, observations: Iterable[Arrays], most: int) -> "ExampleSet":
        """Return those of all shards, at most so many of each label; those of one more shard are in memory."""
        label, order, rows = np.zeros(0, np.int32), np.zeros(0, U64), []
        for each in observations:
            label, order = np.append(label, each["label"]), np.append(order, each["order"])
            ends = np.cumsum(each["length"])
            rows += [
                each["places"][end - n : end].copy() for end, n in zip(ends, each["length"], strict=True)
            ]
            by_label = np.lexsort((order, label))
            rank = np.arange(len(by_label)) - np.searchsorted(label[by_label], label[by_label])
            kept = by_label[rank < most]
            label, order, rows = label[kept], order[kept], [rows[i] for i in kept]
        return cls(label, order, rows)

    @property
    def is_test(self) -> np.ndarray:
        """One example of five, which the model is not fitted to; shape (n,)."""
        return mix(self.order) % U64(5) == 0


def fit(rows: Sequence[np.ndarray], label: np.ndarray, where: str) -> Arrays:
    """Return the weights of a logistic regression, float32.

    Args:
        rows: Places of each example.
        label: Label of each example, shape (n,); two or more different ones.
        where: The stage, for messages.

    Returns:
        weights, shape (n_models, PLACES); bias, shape (n_models,); classes. One model for two labels,
        which is positive for the larger one; otherwise one for each label.

    Raises:
        DataError: scikit-learn is not installed.
    """
    try:
        from scipy.sparse import csr_array
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise DataError(
            "fitting a classifier needs scikit-learn, which is not installed",
            where=where,
            fix="pip install 'scalelab[data]'",
        ) from None
    lengths = np.array([len(row) for row in rows])
    values = np.repeat(1 / np.sqrt(np.maximum(1, lengths)), lengths)
    places, column = np.unique(np.concatenate(rows), return_inverse=True)
    table = csr_array((values, column, np.r_[0, np.cumsum(lengths)]), shape=(len(rows), len(places)))
    model = LogisticRegression(C=10.0, max_iter=200, class_weight="balanced").fit(table, label)
    weights = np.zeros((len(model.intercept_), PLACES), np.float32)
    weights[:, places] = model.coef_
    return {
        "weights": weights,
        "bias": model.intercept_.astype(np.float32),
        "classes": model.classes_.astype(np.int32),
    }


def scores(rows: Iterable[np.ndarray], model: Arrays) -> np.ndarray:
    """Return the log odds of texts, shape (n, n_models).

    Args:
        rows: Places of each text.
        model: As `fit` returned it.
    """
    weights, bias = model["weights"], model["bias"]
    found = [bias + weights[:, row].sum(axis=1) / np.sqrt(max(1, len(row))) for row in rows]
    return np.array(found).reshape(-1, len(bias))


def ranked_right(positive: np.ndarray, negative: np.ndarray) -> float | None:
    """Return the share of pairs in which the positive scores higher (AUC); None without pairs."""
    if not len(positive) or not len(negative):
        return None
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, "left") + np.searchsorted(ordered, positive, "right")
    return float(below.mean() / 2 / len(negative))
