"""Tokenizers side by side on the same text: bytes per token, how numbers and code are split, perplexity.

Perplexity per token depends on the tokenizer: a larger vocabulary predicts fewer, harder tokens. The same text under
the same kind of model is compared in bits per byte. The model here is small enough to be checked by hand, a bigram
with Witten-Bell smoothing, counted on the training documents and scored on the held-out ones:

    p1(t)   = (c(t) + 1) / (n + V)
    p(t|s)  = (c(s, t) + T(s) p1(t)) / (c(s) + T(s))          p1(t) where s was never seen

    perplexity per token = exp(nats / tokens)        perplexity per byte = exp(nats / bytes)
    bits per byte        = nats / ln 2 / bytes

A document is read as END t_1 .. t_n END: n + 1 tokens are scored, as in training.

Symbols: c counts; n tokens counted; V vocabulary; T(s) distinct tokens seen after s; nats over the held-out documents.
Source: Witten and Bell 1991 (IEEE Transactions on Information Theory 37).
Not here: perplexity of trained models (evals/loss/perplexity.py).
"""

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from scalelab.data.base import SkippedDocuments, TextSource
from scalelab.data.hashing import U64, content_hash, mix
from scalelab.data.tokenizer import TextTokenizer
from scalelab.errors import DataError

SAMPLE_BYTES = 4_000_000
"""Text that tokenizers are compared on, whole documents, evenly drawn."""
_RANK, _SIDE = U64(0x70CE2), U64(0x70CE3)  # set the draw and the split apart from other uses of the hash
LENGTHS = (1, 2, 3, 4, 5, 6, 8)
"""Digits of the numbers that are split."""
NUMBERS_EACH = 200
NUMBERS = ("7", "42", "1984", "31415", "1000000", "3.14159", "2024-05-17", "1,000,000", "1e-05", "0xFF")
CODE = (
    "for i in range(10):",
    "    return self._values[i]",
    "\t\tif (x == NULL) {",
    "x_train, y_train = split(data, test_size=0.2)",
    "            pass",
    "SELECT name FROM users WHERE id >= 100;",
)
"""Texts whose tokens are shown."""


@dataclass(frozen=True)
class SampledText:
    """One document of the comparison."""

    domain: str
    text: str
    is_held_out: bool


@dataclass(frozen=True)
class TextScore:
    """One tokenizer on the documents of one domain, or on all."""

    n_bytes: int
    """UTF-8 bytes of all documents."""
    n_tokens: int
    """Their tokens, one end of a document for each."""
    bytes_per_token: float
    held_out_bytes: int
    held_out_tokens: int
    nats: float
    """Information of the held-out documents."""
    perplexity_per_token: float | None
    """None, as for the next two, without held-out text."""
    perplexity_per_byte: float | None
    bits_per_byte: float | None


@dataclass(frozen=True)
class NumberSplit:
    """How whole numbers of some length are split."""

    digits: int
    mean_tokens: float
    pattern: str
    """Digits of the tokens of the commonest split: "3+1"."""
    pattern_share: float
    """Share of the numbers that are split so, 0 to 1."""


@dataclass(frozen=True)
class TokenizerScore:
    """One tokenizer."""

    name: str
    vocab_size: int
    domains: dict[str, TextScore]
    total: TextScore
    numbers: tuple[NumberSplit, ...]
    pieces: dict[str, tuple[str, ...]]
    """The tokens of NUMBERS and CODE, as text; part of a character reads as its replacement."""

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON types."""
        return asdict(self) | {"pieces": {text: list(parts) for text, parts in self.pieces.items()}}


def sample(source: TextSource, n_bytes: int = SAMPLE_BYTES) -> list[SampledText]:
    """Return whole documents of a source, evenly drawn by a hash of their text; a fifth of them held out.

    Args:
        source: Text.
        n_bytes: UTF-8 bytes of the sample; one document more makes it whole.

    Raises:
        DataError: It cannot be read, or has too few documents to hold some out.
    """
    heap: list[tuple[int, int, int, SampledText]] = []
    size = 0
    for i, document in enumerate(source.documents(SkippedDocuments())):
        data = document.text.encode("utf-8")
        content = np.array([content_hash(data)], U64)
        is_held_out = int(mix(content ^ _SIDE)[0]) % 5 == 0
        one = SampledText(domain_of(document.name), document.text, is_held_out)
        heapq.heappush(heap, (-int(mix(content ^ _RANK)[0]), i, len(data), one))
        size += len(data)
        while size - heap[0][2] >= n_bytes:
            size -= heapq.heappop(heap)[2]
    found = [entry[3] for entry in sorted(heap, key=lambda entry: entry[1])]
    if len({one.is_held_out for one in found}) < 2:
        raise DataError(
            f"{len(found)} documents are too few to hold some of them out",
            where=f"source: {source.model_dump_json()}",
            fix="give more documents, or cut a file into smaller ones (document: paragraph)",
        )
    return found


def domain_of(name: str) -> str:
    """Return the domain of a document: the part of a mix, or its top directory; "all" where there is none."""
    head, slash, _ = name.partition("/")
    return head if slash else "all"


def compare(
    tokenizers: Mapping[str, TextTokenizer], texts: Sequence[SampledText]
) -> dict[str, TokenizerScore]:
    """Return each tokenizer's scores on the same texts.

    Args:
        tokenizers: By the name that they are reported under.
        texts: Documents, some of them held out.
    """
    return {name: _score(tokenizer, texts) for name, tokenizer in tokenizers.items()}


class Bigram:
    """Bigram model with Witten-Bell smoothing.

    Args:
        rows: Tokens of documents, each with its end.
        end: The token that ends a document, and stands before the first token of the next.
        vocab_size: V.
    """

    def __init__(self, rows: Iterable[np.ndarray], end: int, vocab_size: int):
        self._end, self._vocab_size = end, vocab_size
        row = np.concatenate([np.array([end], np.int64), *rows])
        before, after = row[:-1], row[1:]
        self._keys, self._counts = np.unique(before * vocab_size + after, return_counts=True)
        self._seen = np.bincount(before, minlength=vocab_size)
        self._kinds = np.bincount(self._keys // vocab_size, minlength=vocab_size)
        self._unigram = (np.bincount(after, minlength=vocab_size) + 1) / (len(after) + vocab_size)

    def nats(self, row: np.ndarray) -> float:
        """Return the information of a document, its end included."""
        before, after = np.concatenate([[self._end], row[:-1]]), row
        keys = before * self._vocab_size + after
        at = np.minimum(np.searchsorted(self._keys, keys), max(len(self._keys) - 1, 0))
        pairs = (
            np.where(self._keys[at] == keys, self._counts[at], 0) if len(self._keys) else np.zeros(len(keys))
        )
        seen, kinds, p1 = self._seen[before], self._kinds[before], self._unigram[after]
        p = np.where(seen > 0, (pairs + kinds * p1) / np.maximum(seen + kinds, 1), p1)
        return float(-np.log(p).sum())


def _score(tokenizer: TextTokenizer, texts: Sequence[SampledText]) -> TokenizerScore:
    rows = [np.append(row, tokenizer.end) for row in tokenizer.encode([one.text for one in texts])]
    model = Bigram(
        [row for row, one in zip(rows, texts, strict=True) if not one.is_held_out],
        tokenizer.end,
        tokenizer.vocab_size,
    )
    nats = [model.nats(row) if one.is_held_out else 0.0 for row, one in zip(rows, texts, strict=True)]
    every = list(zip(texts, rows, nats, strict=True))
    domains = {
        domain: _text_score([entry for entry in every if entry[0].domain == domain])
        for domain in sorted({one.domain for one in texts})
    }
    return TokenizerScore(
        name=tokenizer.name,
        vocab_size=tokenizer.vocab_size,
        domains=domains,
        total=_text_score(every),
        numbers=tuple(_split_numbers(tokenizer, digits) for digits in LENGTHS),
        pieces={text: pieces_of(tokenizer, text) for text in (*NUMBERS, *CODE)},
    )


def _text_score(entries: Sequence[tuple[SampledText, np.ndarray, float]]) -> TextScore:
    sizes = [len(one.text.encode("utf-8")) for one, _, _ in entries]
    held = [one.is_held_out for one, _, _ in entries]
    tokens = [len(row) for _, row, _ in entries]
    n_bytes, n_tokens = sum(sizes), sum(tokens)
    held_bytes = sum(n for n, is_held in zip(sizes, held, strict=True) if is_held)
    held_tokens = sum(n for n, is_held in zip(tokens, held, strict=True) if is_held)
    nats = sum(entry[2] for entry in entries)
    return TextScore(
        n_bytes,
        n_tokens,
        n_bytes / n_tokens,
        held_bytes,
        held_tokens,
        nats,
        math.exp(nats / held_tokens) if held_tokens else None,
        math.exp(nats / held_bytes) if held_bytes else None,
        nats / math.log(2) / held_bytes if held_bytes else None,
    )


def _split_numbers(tokenizer: TextTokenizer, digits: int) -> NumberSplit:
    """How numbers of some digits are split; the same numbers for every tokenizer."""
    low, high = (0, 10) if digits == 1 else (10 ** (digits - 1), 10**digits)
    drawn = mix(np.arange(NUMBERS_EACH).astype(U64) + U64(digits)) % U64(high - low)
    numbers = sorted({low + int(n) for n in drawn})
    parts = [[len(piece) for piece in pieces_of(tokenizer, str(number)) if piece] for number in numbers]
    (pattern, count) = min(Counter(map(tuple, parts)).items(), key=lambda item: (-item[1], item[0]))
    mean = sum(map(len, parts)) / len(parts)
    return NumberSplit(digits, mean, "+".join(map(str, pattern)), count / len(parts))


def pieces_of(tokenizer: TextTokenizer, text: str) -> tuple[str, ...]:
    """Return the tokens of a text, each as text."""
    return tuple(tokenizer.decode([token]) for token in tokenizer.encode([text])[0])
