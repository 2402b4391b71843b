"""The order of training: windows of tokens, shuffled by a formula, the same every time.

    window w   tokens w*T .. w*T + T, so that every token but the first is a target once
    sample j   epoch j // n_windows, place j % n_windows, window permute(place, seed, epoch)
    batch k    samples k*n .. k*n + n - 1

Nothing is kept between batches. Batch k depends on (seed, k, n) alone, so a run goes on from
any step; the order of samples does not depend on n, so a short run sees the beginning of what
a long run sees, whatever their batch sizes.

Symbols: T seq_len, in tokens; n windows in a batch.
Source:  Feistel network with cycle walking, Black and Rogaway 2002 (format-preserving ciphers).
"""

from collections.abc import Callable

import numpy as np

from scalelab.data.corpus.shards import Corpus
from scalelab.data.corpus.token_files import TokenFile
from scalelab.data.hashing import U64, key, mix
from scalelab.errors import DataError
from scalelab.units import si

_ROUNDS = 4
_BLOCK = 2**15  # samples whose windows are looked up at once: a few milliseconds


def permute(place: np.ndarray, n: int, keys: np.ndarray) -> np.ndarray:
    """Where a permutation of 0 .. n-1 sends each place; one permutation for each key.

    Args:
        place: Whole numbers below n, shape (m,).
        n: Size of the permuted range.
        keys: uint64, shape (m,) or (1,).
    """
    half = max(1, (int(n - 1).bit_length() + 1) // 2)
    shift, mask = U64(half), U64((1 << half) - 1)
    keys = np.broadcast_to(keys, place.shape)
    x = place.astype(U64)
    outside = np.arange(len(x))
    while outside.size:  # the network permutes 4**half >= n numbers: walk on until below n
        left, right = x[outside] >> shift, x[outside] & mask
        for round_ in range(1, _ROUNDS + 1):
            left, right = right, left ^ (mix(keys[outside] + U64(round_) + right) & mask)
        x[outside] = (left << shift) | right
        outside = outside[x[outside] >= U64(n)]
    return x.astype(np.int64)


class Stream:
    """Batches of windows from one row of tokens.

    Args:
        tokens: What `corpus.tokens("train")` gives.
        seq_len: Tokens a model sees at once; a window holds one more, the last target.
        seed: Decides the order.
        starts: Gives the start of the window of each sample; None: the order above.

    Raises:
        DataError: There is not one whole window.
    """

    def __init__(
        self,
        tokens: TokenFile,
        seq_len: int,
        seed: int,
        starts: Callable[[np.ndarray], np.ndarray] | None = None,
    ):
        self.tokens, self.seq_len, self.seed = tokens, seq_len, seed
        self.n_windows = count_windows(len(tokens), seq_len)
        self._starts_of = starts
        self._block, self._starts = -1, np.empty(0, np.int64)

    def batch(self, k: int, n: int) -> np.ndarray:
        """Samples k*n .. k*n + n - 1 as tokens, int64, shape (n, seq_len + 1)."""
        first, last = k * n, k * n + n
        at = first - self._block * _BLOCK
        if self._block < 0 or at < 0 or at + n > _BLOCK:
            return self.tokens.windows(self._look_up(first, last), self.seq_len + 1)
        return self.tokens.windows(self._starts[at : at + n], self.seq_len + 1)

    def n_tokens_unique(self, n_tokens: int) -> int:
        """How many of the first n_tokens are seen for the first time."""
        return min(n_tokens, self.n_windows * self.seq_len)

    def _look_up(self, first: int, last: int) -> np.ndarray:
        """Where the windows of samples first .. last-1 start; the last block is remembered."""
        parts = []
        for block in range(first // _BLOCK, (last - 1) // _BLOCK + 1):
            if block != self._block:
                self._block, self._starts = block, self._order(block)
            low, high = max(first, block * _BLOCK), min(last, (block + 1) * _BLOCK)
            parts.append(self._starts[low - block * _BLOCK : high - block * _BLOCK])
        return np.concatenate(parts)

    def _order(self, block: int) -> np.ndarray:
        sample = np.arange(block * _BLOCK, (block + 1) * _BLOCK)
        if self._starts_of is not None:
            return self._starts_of(sample)
        epoch, place = sample // self.n_windows, sample % self.n_windows
        keys = mix(key(self.seed) + mix(epoch.astype(U64)))
        return permute(place, self.n_windows, keys) * self.seq_len


def count_windows(n_tokens: int, seq_len: int) -> int:
    """Whole windows in a row of tokens. Raises DataError where there is none."""
    n = (n_tokens - 1) // seq_len
    if n < 1:
        raise DataError(
            f"{n_tokens} tokens are not one window of {seq_len} + 1",
            where="the corpus",
            fix="give more text, or choose a smaller seq_len",
        )
    return n


def n_tokens_unique(corpus: Corpus, seq_len: int, n_tokens: int) -> int:
    """How many of a run's n_tokens training tokens are seen for the first time."""
    return min(n_tokens, count_windows(corpus.n_train, seq_len) * seq_len)


def refuse_too_many(corpus: Corpus, seq_len: int, n_tokens: int, epochs: float) -> None:
    """Refuse a run that would read its training text more often than was allowed.

    Args:
        corpus: The prepared corpus.
        seq_len: Context length of the run, tokens.
        n_tokens: Training tokens of the run.
        epochs: Passes over the training tokens that are allowed.

    Raises:
        DataError: n_tokens is more than `epochs` passes over the training tokens.
    """
    once = count_windows(corpus.n_train, seq_len) * seq_len
    if n_tokens > epochs * once:
        raise DataError(
            f"{si(n_tokens)} training tokens are asked for, and {si(once)} are there:"
            f" {n_tokens / once:.3g} epochs, where {epochs:g} are allowed",
            where=f"corpus {corpus.digest} ({corpus.path})",
            fix="ask for fewer tokens (a smaller budget, or larger models), give more text,"
            f" or allow repeats with data.epochs={n_tokens / once * 1.005:.2f}",
        )


def validation_windows(corpus: Corpus, seq_len: int, n_tokens: int) -> np.ndarray:
    """The fixed windows that every model is judged on, evenly spread over the validation text.

    Windows are taken in the order of their bit-reversed numbers, so that the first few are
    spread as evenly as all. The set for fewer tokens is the beginning of the set for more.

    Args:
        corpus: The corpus.
        seq_len: Tokens a model sees at once.
        n_tokens: Targets wanted: n_tokens // seq_len windows, or all there are if there are
            fewer; the shape of what comes back says how many.

    Returns:
        int64, shape (n_windows, seq_len + 1).
    """
    starts = _validation_starts(corpus, seq_len, n_tokens)
    return corpus.tokens("validation").windows(starts, seq_len + 1)


def validation_floor(corpus: Corpus, seq_len: int, n_tokens: int) -> float | None:
    """True information of the targets of validation_windows, nats per token; None: unknown.

    No model can be expected to do better on them. One that sees only part of a document, since
    its window starts inside, cannot reach it: let the document length be seq_len.
    """
    if (nats := corpus.nats()) is None:
        return None
    starts = _validation_starts(corpus, seq_len, n_tokens)
    targets = starts[:, None] + np.arange(1, seq_len + 1)
    return float(nats[targets].mean(dtype=np.float64))


def _validation_starts(corpus: Corpus, seq_len: int, n_tokens: int) -> np.ndarray:
    there = count_windows(corpus.n_validation, seq_len)
    n = min(n_tokens // seq_len, there)
    if n < 1:
        raise DataError(
            f"{n_tokens} validation tokens are not one window of {seq_len}",
            where="evaluation",
            fix=f"ask for at least {seq_len} tokens",
        )
    return spread(there, n) * seq_len


def spread(there: int, n: int) -> np.ndarray:
    """Return n of the numbers below `there`, as evenly spread as all: in the order of their reversed bits."""
    bits = int(there - 1).bit_length()
    count = min(1 << bits, 1 << (2 * n - 1).bit_length())  # at least half of them are windows
    number, order = np.arange(count), np.zeros(count, np.int64)
    for bit in range(bits):
        order |= ((number >> bit) & 1) << (bits - 1 - bit)
    return order[order < there][:n]
