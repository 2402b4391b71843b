"""The order of training on a mixture: the shares of domains are chosen, each domain's windows shuffled by itself.

    slot      j mod 65,536 of a fixed pattern names the domain of sample j
    place     samples of that domain before j
    window    permute(place mod n, n, seed, domain, epoch place // n) of the domain's n windows

The pattern merges the domains evenly: its c-th slot of domain d lies at (c + 1/2) / w_d. So every prefix of a run has
the shares that were asked for, to a window, and nothing is kept between batches. Shares are whole 65,536ths.

In the cooldown of the learning rate a run may read another mixture. Its pattern begins there anew, and each domain goes
on behind the windows that were read of it, so nothing is repeated before all is read.

Symbols: w shares of the domains; n windows of a domain.
Not here: text in natural proportions (stream.py), where the domains lie (manifest.py).
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from scalelab.data.base import DataConfig
from scalelab.data.corpus.shards import Corpus
from scalelab.data.corpus.stream import Stream, count_windows, permute, spread
from scalelab.data.corpus.stream import n_tokens_unique as unique_of_one_text
from scalelab.data.corpus.stream import refuse_too_many as refuse_too_many_of_one_text
from scalelab.data.hashing import U64, key, mix
from scalelab.errors import DataError
from scalelab.units import si

SLOTS = 65_536


class MixtureOrder:
    """Where the window of each sample starts.

    Args:
        corpus: Has domains.
        weights: Share of each domain; those left out have none.
        seq_len: Tokens of a window, less the last target.
        seed: Decides the order.
        before: Windows of each domain that were read earlier.

    Raises:
        DataError: A domain with a share has not one whole window.
    """

    def __init__(
        self,
        corpus: Corpus,
        weights: Mapping[str, float],
        seq_len: int,
        seed: int,
        before: Mapping[str, int] = MappingProxyType({}),
    ):
        self._seq_len, self._seed = seq_len, seed
        ranges = domain_ranges(corpus, "train")
        total = sum(weights.values())
        self.domains = tuple(name for name in ranges if weights.get(name, 0) > 0)
        self._begin = np.array([ranges[name][0] for name in self.domains])
        self.n_windows = np.array(
            [
                _windows(corpus, name, ranges[name], seq_len, "training", "give the domain more text")
                for name in self.domains
            ]
        )
        self._earlier = np.array([before.get(name, 0) for name in self.domains])
        self._counts = _slots(np.array([weights[name] / total for name in self.domains]))
        place = [(np.arange(n) + 0.5) / n for n in self._counts]
        number = np.repeat(np.arange(len(self.domains)), self._counts)
        self._pattern = number[np.argsort(np.concatenate(place), kind="stable")]
        is_of = self._pattern[:, None] == np.arange(len(self.domains))
        self._before = np.cumsum(is_of, axis=0) - is_of  # of each domain before each slot

    def __call__(self, sample: np.ndarray) -> np.ndarray:
        """Return the start of the window of each sample, shape (n,)."""
        cycle, slot = sample // SLOTS, sample % SLOTS
        domain = self._pattern[slot]
        count = cycle * self._counts[domain] + self._before[slot, domain]
        starts = np.empty(len(sample), np.int64)
        for d, n in enumerate(self.n_windows.tolist()):
            is_here = domain == d
            epoch, place = np.divmod(count[is_here] + self._earlier[d], n)
            keys = mix(key(self._seed, d + 1) + mix(epoch.astype(U64)))
            starts[is_here] = self._begin[d] + permute(place, n, keys) * self._seq_len
        return starts

    def samples(self, n_samples: int) -> np.ndarray:
        """Return how many of the first samples are of each domain, shape (n_domains,)."""
        cycle, slot = divmod(n_samples, SLOTS)
        last = self._counts if slot == SLOTS else self._before[slot]
        return cycle * self._counts + last


class CooldownOrder:
    """Where the window of each sample starts, in a run that reads another mixture in its cooldown.

    Args:
        stable: Order of the samples before the cooldown.
        cooldown: Order of those from there on, counted from 0.
        n_stable: Samples before the cooldown.
    """

    def __init__(self, stable: MixtureOrder, cooldown: MixtureOrder, n_stable: int):
        self._stable, self._cooldown, self._n_stable = stable, cooldown, n_stable

    def __call__(self, sample: np.ndarray) -> np.ndarray:
        """Return the start of the window of each sample, shape (n,)."""
        is_stable = sample < self._n_stable
        starts = np.empty(len(sample), np.int64)
        starts[is_stable] = self._stable(sample[is_stable])
        starts[~is_stable] = self._cooldown(sample[~is_stable] - self._n_stable)
        return starts


def stream_of(
    corpus: Corpus, data: DataConfig, seq_len: int, seed: int, stable_tokens: int | None = None
) -> Stream:
    """Return the batches of a run. Raises DataError where there is not one whole window.

    Args:
        corpus: The prepared corpus.
        data: Its config, with the weights of the run.
        seq_len: Tokens a model sees at once.
        seed: Decides the order.
        stable_tokens: Training tokens before the cooldown of the learning rate; None: all.
    """
    order: MixtureOrder | CooldownOrder | None = None
    if data.weights is not None:
        order = stable = MixtureOrder(corpus, data.weights, seq_len, seed)
        if data.cooldown_weights is not None and stable_tokens is not None:
            n_stable = stable_tokens // seq_len
            cooldown = MixtureOrder(
                corpus, data.cooldown_weights, seq_len, seed, _by_domain(stable, stable.samples(n_stable))
            )
            order = CooldownOrder(stable, cooldown, n_stable)
    return Stream(corpus.tokens("train"), seq_len, seed, order)


def n_tokens_unique(
    corpus: Corpus, data: DataConfig, seq_len: int, n_tokens: int, stable_tokens: int | None = None
) -> int:
    """Return how many of a run's training tokens are seen for the first time.

    Args:
        corpus: The prepared corpus.
        data: Its config, with the weights of the run.
        seq_len: Tokens a model sees at once.
        n_tokens: Training tokens of the run.
        stable_tokens: Those before the cooldown of the learning rate; None: all.
    """
    if data.weights is None:
        return unique_of_one_text(corpus, seq_len, n_tokens)
    read = _windows_read(corpus, data, seq_len, n_tokens, stable_tokens)
    return sum(min(n_read, n_windows) for n_read, n_windows in read.values()) * seq_len


def refuse_too_many(
    corpus: Corpus, data: DataConfig, seq_len: int, n_tokens: int, stable_tokens: int | None = None
) -> None:
    """Refuse a run that would read its text, or a domain of it, more often than was allowed.

    Args:
        corpus: The prepared corpus.
        data: Its config, with the weights and the allowed epochs of the run.
        seq_len: Context length of the run, tokens.
        n_tokens: Training tokens of the run.
        stable_tokens: Those before the cooldown of the learning rate; None: all.

    Raises:
        DataError: It would.
    """
    if data.weights is None:
        refuse_too_many_of_one_text(corpus, seq_len, n_tokens, data.epochs)
        return
    read = _windows_read(corpus, data, seq_len, n_tokens, stable_tokens)
    name = max(read, key=lambda name: read[name][0] / read[name][1])
    n_read, n_windows = read[name]
    if (epochs := n_read / n_windows) > data.epochs:
        raise DataError(
            f"{si(n_tokens)} training tokens with {n_read / (n_tokens // seq_len):.1%} of {name} read its "
            f"{si(n_windows * seq_len)} tokens {epochs:.3g} times, where {data.epochs:g} are allowed",
            where=f"corpus {corpus.digest} ({corpus.path})",
            fix=f"ask for fewer tokens or a smaller share, give more text, or allow repeats with "
            f"data.epochs={epochs * 1.005:.2f}",
        )


def _windows_read(
    corpus: Corpus, data: DataConfig, seq_len: int, n_tokens: int, stable_tokens: int | None
) -> dict[str, tuple[int, int]]:
    """Return for each domain how many windows a run reads, repeats included, and how many there are."""
    assert data.weights is not None
    n = n_tokens // seq_len
    has_cooldown = data.cooldown_weights is not None and stable_tokens is not None
    n_stable = min(n, stable_tokens // seq_len) if has_cooldown else n
    found: dict[str, tuple[int, int]] = {}
    for weights, n_samples in ((data.weights, n_stable), (data.cooldown_weights or {}, n - n_stable)):
        if n_samples:
            order = MixtureOrder(corpus, weights, seq_len, 0)
            windows = _by_domain(order, order.n_windows)
            for name, n_read in _by_domain(order, order.samples(n_samples)).items():
                found[name] = found.get(name, (0, 0))[0] + n_read, windows[name]
    return found


def _by_domain(order: MixtureOrder, numbers: np.ndarray) -> dict[str, int]:
    return dict(zip(order.domains, numbers.tolist(), strict=True))


def domain_windows(corpus: Corpus, seq_len: int, n_tokens: int) -> dict[str, np.ndarray]:
    """Return validation windows of each domain, int64, shape (n, seq_len + 1) each; empty without domains.

    Empty too where the validation text is another one (`held_out` of the data), which has no domains. They are spread
    evenly over the domain's held-out text, the same for every run.

    Args:
        corpus: The prepared corpus.
        seq_len: Tokens a model sees at once.
        n_tokens: Targets wanted in all; each domain gets an equal part, or what it has.

    Raises:
        DataError: A domain has no whole window of held-out text.
    """
    if not (there := held_out_windows(corpus, seq_len)):
        return {}
    tokens, ranges, found = corpus.tokens("validation"), domain_ranges(corpus, "validation"), {}
    for name, n_windows in there.items():
        n = max(1, min(n_windows, n_tokens // seq_len // len(ranges)))
        found[name] = tokens.windows(ranges[name][0] + spread(n_windows, n) * seq_len, seq_len + 1)
    return found


def held_out_windows(corpus: Corpus, seq_len: int) -> dict[str, int]:
    """Return how many validation windows each domain of the training text has; empty where none has its own.

    Args:
        corpus: The prepared corpus.
        seq_len: Tokens a model sees at once.

    Raises:
        DataError: A domain has no whole window of held-out text, and another one has.
    """
    if not (ranges := domain_ranges(corpus, "validation")):
        return {}
    return {
        name: _windows(
            corpus,
            name,
            ranges.get(name, (0, 0)),
            seq_len,
            "held-out",
            "hold out more of it (data.validation; in a curation a hold-out of every domain, or of none), or "
            "evaluate on another text (data.held_out)",
        )
        for name in domain_ranges(corpus, "train")
    }


def domain_ranges(corpus: Corpus, side: str) -> dict[str, tuple[int, int]]:
    """Return where the tokens of each domain begin and end on a side; empty without domains."""
    found, at = {}, 0
    for name, n in ((corpus.manifest.domains or {}).get(side) or {}).items():
        found[name] = (at, at + n)
        at += n
    return found


def _windows(corpus: Corpus, name: str, ends: tuple[int, int], seq_len: int, what: str, fix: str) -> int:
    n_tokens = ends[1] - ends[0]
    if n_tokens <= seq_len:
        raise DataError(
            f"the domain {name} has {n_tokens} {what} tokens, not one window of {seq_len} + 1",
            where=f"corpus {corpus.digest} ({corpus.path})",
            fix=f"{fix}, or choose a smaller seq_len",
        )
    return count_windows(n_tokens, seq_len)


def _slots(shares: np.ndarray) -> np.ndarray:
    """Return whole numbers of slots that sum to SLOTS, by largest remainder, one at least."""
    exact = shares * SLOTS
    counts = np.maximum(np.floor(exact).astype(np.int64), 1)
    for i in np.argsort(-(exact - np.floor(exact)), kind="stable")[: max(0, SLOTS - int(counts.sum()))]:
        counts[i] += 1
    counts[np.argmax(counts)] += SLOTS - counts.sum()
    return counts
