"""Sketches of documents as they were made one at a time, with a regular expression: the same numbers, slowly."""

import hashlib
import re

import numpy as np

from scalelab.data.hashing import mix

U64 = np.uint64
POWERS = np.array([pow(0x100000001B3, i, 2**64) for i in range(5)], U64)
DRAWS = mix(np.arange(1, 225, dtype=U64) * U64(0x9E3779B97F4A7C15))
SLOPE, OFFSET = (DRAWS[:112] | U64(1))[:, None], DRAWS[112:][:, None]


def hash_of(data: bytes) -> int:
    """Return 64 bits of a text."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def bands_of(texts, known=None):
    """Return the band hashes of texts, uint64, shape (n, 14); `known` keeps hashes of words."""
    known, rows = {} if known is None else known, []
    for text in texts:
        words = re.findall(r"\w+", text.lower())
        if len(words) < 5:
            rows.append(mix(np.array([hash_of(text.encode())], U64) + SLOPE[:, 0]))
            continue
        for word in words:
            if word not in known:
                known[word] = hash_of(word.encode())
        hashes = np.fromiter(map(known.__getitem__, words), U64, len(words))
        n = len(hashes) - 4
        shingles = np.zeros(n, U64)
        for i, power in enumerate(POWERS):
            shingles += hashes[i : n + i] * power
        shingles = np.unique(mix(shingles))
        least = np.full(112, 2**64 - 1, U64)
        for at in range(0, n, 2048):
            piece = shingles[None, at : at + 2048]
            if piece.size:
                least = np.minimum(least, (piece * SLOPE + OFFSET).min(axis=1))
        rows.append(least)
    bands = np.zeros((len(texts), 14), U64)
    for row in np.array(rows, U64).reshape(-1, 14, 8).transpose(2, 0, 1):
        bands = mix(bands + row)
    return bands
