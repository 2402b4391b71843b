"""MinHash of documents over shingles of five words, many documents at once.

    word      a longest run of letters, digits and underscores, in lower case
    shingle   5 words that follow one another; its hash is mix(sum of hash(word i) * power i)
    least     for each of 112 functions h(x) = slope x + offset (mod 2^64) its least value over the shingles
    band      8 of these folded into one number; 14 bands in all

A document of fewer than 5 words has the bands of its content hash alone.

Words are cut by bytes.translate and bytes.split. The shingles of all documents lie in one array, and their
112 hashes are made a piece at a time that stays in the processor's cache.

Source: Broder 1997 (MinHash); Leskovec et al., Mining of Massive Datasets, 3.4 (bands).
Not here: which documents are taken together, and in which process (sketches.py).
"""

import functools
import hashlib
from collections.abc import Sequence
from itertools import chain

import numpy as np

from scalelab.data.hashing import U64, content_hash, mix

BANDS, ROWS, SHINGLE = 14, 8, 5
MEMO = 2**18
"""Words of which the hash is remembered before starting anew."""
PIECE = 512
"""Shingles hashed at once: 112 hashes of each are 0.5 MB and stay in the processor's cache."""
LEAST_RUN = 32
"""Mean number of shingles of a document in a piece from which each is reduced by itself: faster by then."""

_POWERS = np.array([pow(0x100000001B3, i, 2**64) for i in range(SHINGLE)], U64)
_DRAWS = mix(np.arange(1, 2 * BANDS * ROWS + 1, dtype=U64) * U64(0x9E3779B97F4A7C15))
_SLOPE = _DRAWS[: BANDS * ROWS] | U64(1)
_OFFSET = _DRAWS[BANDS * ROWS :]
_LARGEST = U64(2**64 - 1)
_SPACE = 32
_ASCII_WORDS = bytes(ord(chr(i).lower()) if chr(i).isalnum() or i == ord("_") else _SPACE for i in range(128))
_BYTE_WORDS = _ASCII_WORDS + bytes([_SPACE]) * 128


class _WordHashes(dict[bytes, int]):
    """64-bit hash of each word, computed when first asked for."""

    def __missing__(self, word: bytes) -> int:
        if len(self) >= MEMO:
            self.clear()
        digest = hashlib.blake2b(word, digest_size=8).digest()
        self[word] = value = int.from_bytes(digest, "little")
        return value


_word_hashes = _WordHashes()


def bands_of(documents: Sequence[bytes]) -> np.ndarray:
    """Return the band hashes of documents, uint64, shape (n, BANDS).

    Args:
        documents: Texts in UTF-8.
    """
    return folded(least_hashes_of(documents))


def least_hashes_of(documents: Sequence[bytes]) -> np.ndarray:
    """Return the least of each of 112 hashes over the shingles of documents, uint64, shape (n, 112).

    The share of equal ones of two documents estimates the Jaccard similarity of their shingles.

    Args:
        documents: Texts in UTF-8.
    """
    words = [words_of(data) for data in documents]
    counts = np.fromiter(map(len, words), np.int64, len(words))
    hashes = np.fromiter(map(_word_hashes.__getitem__, chain.from_iterable(words)), U64, int(counts.sum()))
    del words
    least = _least_hashes(*_shingles(hashes, counts), len(documents))
    for i in np.flatnonzero(counts < SHINGLE):
        least[i] = mix(U64(content_hash(documents[i])) + _SLOPE)
    return least


def folded(least: np.ndarray) -> np.ndarray:
    """Return the band hashes of least hashes, uint64, shape (n, BANDS)."""
    rows = least.reshape(-1, BANDS, ROWS)
    bands = np.zeros(rows.shape[:2], U64)
    for i in range(ROWS):
        bands = mix(bands + rows[:, :, i])
    return bands


def word_hashes(words: Sequence[bytes]) -> np.ndarray:
    """Return the hash of each word, uint64, shape (n,)."""
    return np.fromiter(map(_word_hashes.__getitem__, words), U64, len(words))


def words_of(data: bytes) -> list[bytes]:
    r"""Return the words of a text in lower case: those that the regular expression \\w+ finds."""
    if data.isascii():
        return data.translate(_BYTE_WORDS).split()
    codes = np.frombuffer(data.decode("utf-8").lower().encode("utf-32-le"), "<u4")
    spaced = np.where(_word_characters()[codes], codes, np.uint32(_SPACE))
    return spaced.astype("<u4").tobytes().decode("utf-32-le").encode("utf-8").split()


@functools.cache
def _word_characters() -> np.ndarray:
    """Return for each code point whether it belongs to a word, shape (0x110000,)."""
    return np.fromiter((chr(i).isalnum() or chr(i) == "_" for i in range(0x110000)), bool, 0x110000)


def _shingles(hashes: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the hashes of all shingles, and for each the number of its document.

    Args:
        hashes: Word hashes of all documents, one after another.
        counts: Words of each document.
    """
    n = max(0, len(hashes) - SHINGLE + 1)
    shingles = np.zeros(n, U64)
    for i, power in enumerate(_POWERS):
        shingles += hashes[i : n + i] * power
    owner = np.repeat(np.arange(len(counts)), counts)
    within = owner[:n] == owner[SHINGLE - 1 :]
    return mix(shingles[within]), owner[:n][within]


def _least_hashes(shingles: np.ndarray, owner: np.ndarray, n: int) -> np.ndarray:
    """Return the least of each of 112 hashes over the shingles of each document, shape (n, 112)."""
    least = np.full((n, BANDS * ROWS), _LARGEST, U64)
    buffer = np.empty((PIECE, BANDS * ROWS), U64)
    for at in range(0, len(shingles), PIECE):
        piece, owners = shingles[at : at + PIECE, None], owner[at : at + PIECE]
        hashed = buffer[: len(piece)]
        np.multiply(piece, _SLOPE, out=hashed)
        np.add(hashed, _OFFSET, out=hashed)
        starts = np.flatnonzero(np.diff(owners, prepend=-1))
        if len(starts) * LEAST_RUN <= len(piece):
            for first, last in zip(starts, [*starts[1:], len(piece)], strict=True):
                row = least[owners[first]]
                np.minimum(row, hashed[first:last].min(axis=0), out=row)
        else:
            rows = owners[starts]  # each document once: their shingles lie together
            least[rows] = np.minimum(least[rows], np.minimum.reduceat(hashed, starts, axis=0))
    return least
