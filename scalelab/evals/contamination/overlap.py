"""Exact search for n-grams of test items in training text.

    hash of x_0 .. x_{n-1} = sum of mix(x_i) * B**i mod 2**64

computed from differences of running sums. Every hash match is verified token by token. n = 13 as in
GPT-3.

Source:   Brown et al. 2020, arXiv:2005.14165, appendix C, on 13-grams.
Not here: whether a model prefers the items' order (order_test.py), near-copies inside a corpus
          (data/corpus/split.py).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from scalelab.data.corpus.shards import Corpus
from scalelab.data.hashing import U64, mix
from scalelab.data.tokenizer import TextTokenizer
from scalelab.errors import DataError
from scalelab.evals.contamination.order_test import Items, refuse_empty
from scalelab.evals.loss.document_sets import corpus_texts
from scalelab.units import si

Unit = Literal["tokens", "words"]
"""words: lower-case text split at white space."""

OVERLAP_CANNOT_SEE = (
    "reworded or translated items, and text of other corpora (a base model's, a fine-tuning set)",
    "whether a match matters: common phrases and quoted sources also match",
)
_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse mod 2**64
_INVERSE = pow(_BASE, -1, 2**64)
_BLOCK = 2**18  # training tokens hashed at once: 2 MiB an array, which caches hold
_MOST_BITS = 24  # of a hash that lead to where it lies: 16 MiB of flags, 64 MiB of places


@dataclass(frozen=True)
class NgramMatch:
    """One n-gram of an item that occurs in the training text."""

    item: int
    text: str
    """Text of the item's first n-gram that was found."""
    document: int
    """Index of a training document that contains it, from 0."""


@dataclass(frozen=True, eq=False)
class Overlap:
    """Share of each test item that occurs in the training text."""

    training: str
    """Description of the training text."""
    unit: Unit
    n: int
    n_training: int
    """Tokens or words searched."""
    n_grams: np.ndarray
    """Number of n-grams of each item, shape (n_items,). An item shorter than n is one n-gram."""
    n_found: np.ndarray
    """Number of n-grams that occur in the training text, shape (n_items,)."""
    is_short: np.ndarray
    """Whether an item is shorter than n, shape (n_items,)."""
    bytes_per_gram: float | None
    """UTF-8 bytes that n tokens or words of the items are on average; None: not known as text."""
    findings: tuple[NgramMatch, ...]
    """One for each item that was found."""

    @property
    def share_of_items(self) -> float | None:
        """Share of the items of length n or more with any match; None if there are none."""
        return _share((self.n_found > 0)[~self.is_short])

    @property
    def share_of_grams(self) -> float | None:
        """Share of the n-grams of these items that was found."""
        n_grams, n_found = self.n_grams[~self.is_short], self.n_found[~self.is_short]
        return float(n_found.sum() / n_grams.sum()) if n_grams.size else None

    @property
    def share_of_short(self) -> float | None:
        """Share of the items shorter than n that was found as a whole; None if there are none."""
        return _share((self.n_found > 0)[self.is_short])

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON types."""
        unchanged = "training unit n n_training share_of_items share_of_grams share_of_short bytes_per_gram"
        return {
            **{name: getattr(self, name) for name in unchanged.split()},
            "items": {
                "n_grams": self.n_grams.tolist(),
                "n_found": self.n_found.tolist(),
                "is_short": self.is_short.tolist(),
            },
            "findings": [vars(finding) for finding in self.findings],
            "cannot_see": list(OVERLAP_CANNOT_SEE),
        }

    def summary(self) -> str:
        """Return the result as text, with a few examples."""
        n_short = int(self.is_short.sum())
        lines = [
            f"Test items in {self.training} [measured]",
            f"  {si(self.n_training)} training {self.unit} searched for {self.n}-grams of"
            f" {len(self.n_grams)} items",
        ]
        if self.bytes_per_gram is not None:
            lines.append(f"  {self.n} {self.unit} are {self.bytes_per_gram:.0f} bytes on average")
        if self.share_of_items is not None:
            n_hit = int((self.n_found > 0)[~self.is_short].sum())
            lines.append(
                f"  items with a finding: {n_hit} of {len(self.n_grams) - n_short}"
                f" ({self.share_of_items:.2%}); {self.n}-grams found: {self.share_of_grams:.2%}"
            )
        if self.share_of_short is not None:
            n_hit = int((self.n_found > 0)[self.is_short].sum())
            lines.append(
                f"  items shorter than {self.n} {self.unit}, searched as a whole: {n_hit} of"
                f" {n_short} found, and not in the shares above"
            )
        lines += [
            f"    item {f.item}, training document {f.document}: {f.text!r:.100}" for f in self.findings[:5]
        ]
        return "\n".join([*lines, "  cannot see:", *(f"    {w}" for w in OVERLAP_CANNOT_SEE)])


def overlap(
    items: Items,
    training: Corpus | Sequence[str],
    *,
    n: int = 13,
    unit: Unit = "tokens",
    tokenizer: TextTokenizer | None = None,
) -> Overlap:
    """Find all n-grams of test items that occur in training text, without false positives.

    An n-gram lies within one document. Tokenization depends on context, so an item's first and last
    tokens may differ from those inside a document. Words avoid this but take longer, because the corpus
    must be decoded.

    Args:
        items: Texts, or rows of training tokens (not with unit words).
        training: A prepared corpus, whose training split is searched, or texts, such as those of
            fine-tuning.
        n: Length of the n-grams, in units.
        unit: Unit of comparison.
        tokenizer: Tokenizer for texts with unit tokens. A corpus has its own.

    Raises:
        DataError: An item is empty, n is below 1, or items, training and unit do not match.
    """
    if n < 1:
        raise DataError(f"n is {n}", where="n", fix="choose 1 or more")
    refuse_empty(items)
    are_texts = isinstance(items[0], str)
    if isinstance(training, Corpus):
        tokenizer, name = training.load_tokenizer(), f"corpus {training.digest}"
    else:
        name = f"{len(training)} texts"
    if unit == "words":
        if not are_texts:
            raise _unlike("tokens have no words", "give the items as texts, or compare tokens")
        rows, words = _as_words(items)
        texts = corpus_texts(training, "train") if isinstance(training, Corpus) else training
        pieces = _together(np.array([words.get(w, -1) for w in _words(t)]) for t in texts)
    else:
        if tokenizer is None and (are_texts or not isinstance(training, Corpus)):
            raise _unlike(
                "comparing texts by tokens needs a tokenizer",
                "name one (tokenizer=...), compare words, or give the items as tokens",
            )
        rows = tokenizer.encode(items) if are_texts else [np.asarray(r, np.int64) for r in items]
        if isinstance(training, Corpus):
            pieces = _pieces(training, n)
        else:
            pieces = _together(tokenizer.encode([text])[0] for text in training)
    refuse_empty(rows)

    lengths = np.minimum([len(row) for row in rows], n)
    indexes = [_Index(rows, np.flatnonzero(lengths == size), size) for size in set(lengths)]
    n_training = _search(indexes, pieces)
    if unit == "tokens" and isinstance(training, Corpus):
        n_training = training.n_train  # blocks share tokens, which were searched twice
    n_grams, n_found = np.zeros((2, len(rows)), np.int64)
    findings = []
    for index in indexes:
        n_grams += np.bincount(index.item, minlength=len(rows))
        was_found = index.document[index.gram] >= 0
        n_found += np.bincount(index.item[was_found], minlength=len(rows))
        hit, first = np.unique(index.item[was_found], return_index=True)
        for i, at in zip(hit.tolist(), np.flatnonzero(was_found)[first].tolist(), strict=True):
            place = at - int(np.searchsorted(index.item, i))
            shown = _excerpt(items[i], rows[i][place : place + index.size], place, unit, tokenizer)
            findings.append(NgramMatch(i, shown, int(index.document[index.gram[at]])))
    n_bytes = sum(len(item.encode("utf-8")) for item in items) if are_texts else None
    return Overlap(
        name,
        unit,
        n,
        n_training,
        n_grams,
        n_found,
        np.array([len(row) < n for row in rows]),
        n_bytes and n * n_bytes / sum(map(len, rows)),
        tuple(sorted(findings, key=lambda finding: finding.item)),
    )


class _Index:
    """The distinct n-grams of items by hash, and where each was found.

    Args:
        rows: Every item.
        chosen: Item numbers to include, ascending.
        size: Length of their n-grams.
    """

    def __init__(self, rows: Sequence[np.ndarray], chosen: np.ndarray, size: int):
        self.size = int(size)
        tokens = np.concatenate([rows[i] for i in chosen])
        lengths = np.array([len(rows[i]) for i in chosen])
        n_grams = lengths - self.size + 1
        self.item = np.repeat(chosen, n_grams)
        """Item of each n-gram, ascending."""
        # Start of each n-gram: positions at the ends of earlier items that start no n-gram are skipped.
        skipped = (self.size - 1) * np.arange(len(chosen))
        starts = np.arange(len(self.item)) + np.repeat(skipped, n_grams)
        hashes = _hashes(_running(tokens), self.size)[starts]
        order = np.argsort(hashes, kind="stable")
        hashes, starts = hashes[order], starts[order]
        slid = self._slid = np.lib.stride_tricks.sliding_window_view(tokens, self.size)
        same = hashes[1:] == hashes[:-1]
        same[same] = (slid[starts[1:][same]] == slid[starts[:-1][same]]).all(1)
        is_new = np.concatenate([[True], ~same])
        self.gram = np.empty(len(order), np.int64)
        """Number of each n-gram among the distinct ones. Of two that are equal but do not lie
        side by side, since another one has the same hash, each has a number."""
        self.gram[order] = np.cumsum(is_new) - 1
        self._hashes, self._starts = hashes[is_new], starts[is_new]
        self.document = np.full(len(self._hashes), -1)
        """A training document that contains each distinct n-gram; -1 if none does."""
        bits = min(_MOST_BITS, max(10, (8 * len(self._hashes)).bit_length()))
        self._shift = U64(64 - bits)
        held = np.bincount(self._hashes >> self._shift, minlength=1 << bits)
        self._is_held, self._most_held = held > 0, int(held.max())
        self._behind = np.cumsum(held).astype(np.int32)
        """Place behind the last distinct n-gram whose hash begins with these bits."""

    def find_in(self, piece: np.ndarray, hashes: np.ndarray, first: int, ends: np.ndarray) -> None:
        """Record the n-grams that occur in a block of the training text.

        Args:
            piece: Tokens of the block.
            hashes: Hashes of its n-grams, uint64.
            first: Index of the document of the first token.
            ends: Ends of the documents in the block, counted from its first token.
        """
        begins = hashes >> self._shift
        places = np.flatnonzero(self._is_held[begins])
        hashes, behind = hashes[places], self._behind[begins[places]]
        slid = np.lib.stride_tricks.sliding_window_view(piece, self.size)
        for back in range(1, self._most_held + 1):
            at = np.maximum(behind - back, 0)
            hit = np.flatnonzero((self._hashes[at] == hashes) & (self.document[at] < 0))
            at, here = at[hit], places[hit]
            document = np.searchsorted(ends, here, side="right")
            is_whole = here + self.size <= ends[document]
            is_same = is_whole & (slid[here] == self._slid[self._starts[at]]).all(1)
            # Backwards, so that of several places the first is kept.
            self.document[at[is_same][::-1]] = first + document[is_same][::-1]


def _search(indexes: Sequence[_Index], pieces: Iterable[tuple[np.ndarray, int, np.ndarray]]) -> int:
    """Search all blocks for all n-grams; return the number of tokens or words searched."""
    n_training = 0
    for piece, first, ends in pieces:
        n_training += len(piece)
        running = _running(piece)
        for index in indexes:
            if index.size <= len(piece):
                index.find_in(piece, _hashes(running, index.size), first, ends)
    return n_training


def _running(tokens: np.ndarray) -> np.ndarray:
    """Sums of mix(x_i) * B**i over the first 0, 1, 2, ... tokens, uint64."""
    running = np.zeros(len(tokens) + 1, U64)
    np.cumsum(_scrambled(tokens) * _powers(_BASE, len(tokens)), out=running[1:])
    return running


def _hashes(running: np.ndarray, size: int) -> np.ndarray:
    """Return the hash of the n-gram that starts at each token, uint64; see the module docstring."""
    n = len(running) - size
    return (running[size:] - running[:n]) * _powers(_INVERSE, n)


def _scrambled(tokens: np.ndarray) -> np.ndarray:
    return mix(tokens.astype(np.int64).view(U64) + U64(1))


def _powers(base: int, n: int) -> np.ndarray:
    """base**0 .. base**(n - 1) mod 2**64."""
    return _table_of_powers(base, max(1, n - 1).bit_length())[:n]


@lru_cache(maxsize=8)
def _table_of_powers(base: int, bits: int) -> np.ndarray:
    factors = np.full(1 << bits, base, U64)
    factors[0] = 1
    return np.cumprod(factors)


def _pieces(corpus: Corpus, n: int) -> Iterator[tuple[np.ndarray, int, np.ndarray]]:
    """The training tokens in blocks that share n - 1, each with its documents.

    Yields: Tokens; the number of the document that the first one is in; where that document
        and those behind it end, counted from the first token.
    """
    tokens = corpus.tokens("train")
    ends = tokens.ends.astype(np.int64)
    at, kept = 0, np.empty(0, np.int64)
    for shard in tokens.shards:
        for start in range(0, len(shard), _BLOCK):
            piece = np.concatenate([kept, shard[start : start + _BLOCK]])
            first, last = np.searchsorted(ends, [at, at + len(piece) - 1], side="right")
            yield piece, int(first), ends[first : last + 1] - at
            kept = piece[max(0, len(piece) - n + 1) :]
            at += len(piece) - len(kept)


def _together(documents: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, int, np.ndarray]]:
    """Whole documents, some _BLOCK tokens together; yields as `_pieces` does."""
    batch: list[np.ndarray] = []
    first = size = 0
    for document in documents:
        batch.append(document.astype(np.int64))
        size += len(document)
        if size >= _BLOCK:
            yield np.concatenate(batch), first, np.cumsum([len(d) for d in batch])
            first, size, batch = first + len(batch), 0, []
    if size:
        yield np.concatenate(batch), first, np.cumsum([len(d) for d in batch])


def _words(text: str) -> list[str]:
    return text.lower().split()


def _as_words(items: Sequence[str]) -> tuple[list[np.ndarray], dict[str, int]]:
    """Items as numbers of their words, and the number of each word."""
    words: dict[str, int] = {}
    rows = [np.array([words.setdefault(w, len(words)) for w in _words(t)], int) for t in items]
    return rows, words


def _excerpt(
    item: str | Sequence[int], gram: np.ndarray, place: int, unit: Unit, tokenizer: TextTokenizer | None
) -> str:
    """Return an n-gram as text."""
    if unit == "words":
        return " ".join(_words(item)[place : place + len(gram)])
    return tokenizer.decode(gram) if tokenizer else " ".join(map(str, gram))


def _share(claims: np.ndarray) -> float | None:
    return float(claims.mean()) if claims.size else None


def _unlike(problem: str, fix: str) -> DataError:
    return DataError(problem, where="items, training, unit", fix=fix)
