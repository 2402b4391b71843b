"""ZipfGraph: a language whose entropy is known exactly, token by token.

    p(x | topic z, before a, before b) =
        l0 u(x)  +  l1 T1(x | b)  +  l2 T2(x | a, b)  +  l3 T3(x | z, b)

A document is its topic's token, then words. u is Zipf's law; each T gives weights 8:4:2:1 to
four successors that a hash of the context draws from u. The topic is in plain sight, but only
at the beginning: to use it a model must look far back. Every probability is a whole number of
65,536ths and each token is drawn with exactly that probability, so -ln p of each token is its
true information, and the mean over the validation tokens is the floor E on those tokens.

The floor can only be reached where a window holds whole documents: let length be seq_len.

Symbols: nats of each token in nats; the topic token itself counts with ln(topics).
Not here: text. There is no tokenizer, and no bytes.
"""

import hashlib
from collections.abc import Iterator
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from scalelab.config import Count, Whole
from scalelab.data.base import EncodedDocument, HashFile, TokenSource
from scalelab.data.hashing import U64, key, mix

_VERSION = 1
_UNIT = 65536
_MIXTURE = np.array([9830, 16384, 22938, 16384])  # about .15 .25 .35 .25, in 65,536ths
_RANKS = np.array([34953, 17476, 8738, 4369])  # 8:4:2:1, in 65,536ths
_DOCUMENTS = 2048  # documents drawn side by side
assert _MIXTURE.sum() == _RANKS.sum() == _UNIT


class Synthetic(TokenSource):
    """A language of known entropy, for telling whether a fitted floor is the true one."""

    kind: Literal["synthetic"] = "synthetic"
    """Names this source in SOURCES."""
    vocab: Annotated[Count, Field(ge=16, le=32768)] = 256
    """Tokens: one for each topic, the others words."""
    topics: Annotated[Count, Field(ge=2)] = 32
    """Topics of documents, equally likely."""
    documents: Count = 40_000
    """Documents of both sides together. More documents leave the first ones as they were."""
    length: Annotated[Count, Field(ge=8)] = 128
    """Tokens of each document, its topic included."""
    seed: Whole = 0
    """Decides the language and the documents."""

    @model_validator(mode="after")
    def _words_are_left(self) -> Self:
        if self.vocab - self.topics < 8:
            raise ValueError(f"{self.topics} topics leave too few words of {self.vocab} tokens")
        return self

    @property
    def vocab_size(self) -> int:
        """Tokens of the vocabulary."""
        return self.vocab

    def fingerprint(self, hash_file: HashFile) -> str:
        """Over the settings: they decide every token."""
        return hashlib.sha256(f"{_VERSION} {self.model_dump_json()}".encode()).hexdigest()

    def encoded(self, validation: float) -> Iterator[EncodedDocument]:
        """Every document, each on the side that a hash of its number says."""
        language = _Language(self.vocab, self.topics, self.seed)
        for first in range(0, self.documents, _DOCUMENTS):
            number = np.arange(first, min(first + _DOCUMENTS, self.documents)).astype(U64)
            draws = mix(key(self.seed, 1) + mix(number))
            side = mix(draws ^ U64(1)) >> U64(11)
            is_validation = side < U64(int(validation * 2**53))
            tokens, nats = language.draw(draws, self.length)
            for held_out, row, known in zip(is_validation, tokens, nats, strict=True):
                if held_out:
                    yield EncodedDocument("validation", row, 0, known)
                else:
                    yield EncodedDocument("train", row, 0)


class _Language:
    """The conditional probabilities, and how to draw from them."""

    def __init__(self, vocab: int, topics: int, seed: int):
        self.vocab, self.topics = vocab, topics
        self._seeds = [key(seed, 2, table) for table in range(3)]
        share = 1 / np.arange(1, vocab - topics + 1)
        spare = _UNIT - len(share)  # every word can occur
        counts = 1 + np.floor(share / share.sum() * spare).astype(np.int64)
        counts[0] += _UNIT - counts.sum()  # what rounding left over goes to the commonest word
        self.unigram = np.concatenate([np.zeros(topics, np.int64), counts])
        """In 65,536ths, shape (vocab,)."""
        self._words = np.repeat(np.arange(topics, vocab), counts)

    def draw(self, draws: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Documents and the nats of their tokens, each of shape (len(draws), length).

        Args:
            draws: One uint64 for each document, which decides it.
            length: Tokens of each.
        """
        n = len(draws)
        tokens = np.empty((length, n), np.int64)
        nats = np.empty((length, n))
        topic = (mix(draws) % U64(self.topics)).astype(np.int64)
        tokens[0], nats[0] = topic, np.log(self.topics)
        one = np.arange(n)
        for t in range(1, length):
            a, b = tokens[max(t - 2, 0)], tokens[t - 1]
            random = mix(draws + mix(np.full(n, t, U64)))
            table = np.searchsorted(np.cumsum(_MIXTURE), _bits(random, 0), side="right")
            rank = np.searchsorted(np.cumsum(_RANKS), _bits(random, 1), side="right")
            successors = self.successors(a, b, topic)
            choices = np.stack([self._words[_bits(random, 2)], *(s[one, rank] for s in successors)])
            tokens[t] = choices[table, one]
            nats[t] = -np.log(self.probability(tokens[t], successors))
        return tokens.T, nats.T

    def successors(self, a: np.ndarray, b: np.ndarray, topic: np.ndarray) -> list[np.ndarray]:
        """The four likely words after each context, by each of the three tables: (n, 4) each."""
        contexts = (b, a * self.vocab + b, topic * self.vocab + b)
        found = []
        for seed, context in zip(self._seeds, contexts, strict=True):
            random = mix(seed + mix(context.astype(U64)))
            found.append(np.stack([self._words[_bits(random, i)] for i in range(4)], axis=1))
        return found

    def probability(self, token: np.ndarray, successors: list[np.ndarray]) -> np.ndarray:
        """Exact probability of each token after its context, shape (n,)."""
        total = _MIXTURE[0] * self.unigram[token]
        for weight, likely in zip(_MIXTURE[1:], successors, strict=True):
            total = total + weight * ((likely == token[:, None]) @ _RANKS)
        return total / _UNIT**2


def _bits(random: np.ndarray, part: int) -> np.ndarray:
    """Sixteen of the 64 random bits, as 0 .. 65535."""
    return ((random >> U64(16 * part)) & U64(_UNIT - 1)).astype(np.int64)
