"""Whether a model was trained on test items: by the order it prefers, and by the text itself.

Ordered against shuffled. A model that never saw the items has no reason to prefer the order in
which they were published; one that saw them in that order does. The items are cut into r
shards, and in each one

    d_s = log p(published order) - mean over m shuffles of log p(shuffled)         nats
    t = mean(d) / (sd(d) / sqrt(r)), one-sided p with r - 1 degrees of freedom

It takes many repeats in training before this sees anything, so a high p says nothing by itself:
beside it stands a positive control, the same test on a copy that was trained on the items.

Overlap. Which n-grams of the items stand in the training text, every one looked for, every
finding compared word for word (n = 13 after GPT-3).

    hash of x_0 .. x_{n-1} = sum of mix(x_i) * B**i mod 2**64

from differences of running sums. A hash alone never counts as a finding.

Source:   Oren et al. 2023, arXiv:2310.17623, section 4 (its reference code takes sd with ddof 0,
          which is a little too sure; here ddof is 1); Brown et al. 2020, arXiv:2005.14165,
          appendix C, on 13-grams.
Not here: near-copies inside a corpus (data/split.py), loss on documents (perplexity.py).
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from scipy import stats

from scalelab.data.hashing import U64, mix
from scalelab.data.shards import Corpus
from scalelab.data.tokenizer import TextTokenizer
from scalelab.errors import DataError
from scalelab.evals.checkpoint import Checkpoint
from scalelab.evals.perplexity import corpus_texts
from scalelab.units import si

Items = Sequence[str] | Sequence[Sequence[int]]
"""Test items in their published order: as texts, or as tokens."""
Unit = Literal["tokens", "words"]
"""words: what white space divides, in lower case."""

SIGNIFICANT = 0.05
ORDER_CANNOT_SEE = (
    "items that were trained on in another order, one at a time, or reworded",
    "a few repeats among many other tokens: see how many the control took, which saw the items"
    " last and undiluted",
    "innocent order: items sorted by topic, length or source make any model prefer their order",
)
OVERLAP_CANNOT_SEE = (
    "reworded or translated items, and text of other corpora (a base model's, a fine-tuning set)",
    "whether a finding matters: common phrases and quoted sources are found as well",
)
_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse mod 2**64
_INVERSE = pow(_BASE, -1, 2**64)
_BLOCK = 2**18  # training tokens hashed at once: 2 MiB an array, which caches hold
_MOST_BITS = 24  # of a hash that lead to where it lies: 16 MiB of flags, 64 MiB of places


@dataclass(frozen=True)
class ControlPoint:
    """The order test on a copy that was trained on the items this many times."""

    repeats: int
    p: float
    z: float
    mean_difference: float
    """Nats per shard."""
    nats_per_token: float
    """Of the items in their published order."""


@dataclass(frozen=True)
class PositiveControl:
    """What the order test says of a model that is known to have seen the items in order."""

    points: tuple[ControlPoint, ...]
    """By rising repeats."""
    learning_rate: float
    batch_windows: int

    @property
    def repeats_needed(self) -> int | None:
        """The fewest repeats from which on p stays below SIGNIFICANT; None: it is not at the end.

        A single p is below it by chance one time in twenty.
        """
        needed = None
        for point in reversed(self.points):
            if point.p >= SIGNIFICANT:
                break
            needed = point.repeats
        return needed


@dataclass(frozen=True, eq=False)
class OrderTest:
    """What one model thinks of the published order."""

    checkpoint: str
    checkpoint_digest: str
    p: float
    """One-sided: small where the published order is likelier than chance."""
    z: float
    """The t statistic, with n_shards - 1 degrees of freedom."""
    differences: np.ndarray
    """d of each shard, nats, shape (n_shards,)."""
    nats_per_token: float
    """Of the items in their published order."""
    shard_sizes: tuple[int, int]
    """Items of the smallest shard and of the largest."""
    permutations: int
    window: int
    """Tokens read at once."""
    n_items: int
    n_tokens: int
    """Of all items together."""
    n_longer: int
    """Items longer than the window, of which only the border to the next shows any order."""
    seed: int
    control: PositiveControl | None
    """None where no control was asked for."""

    @property
    def mean_difference(self) -> float:
        """Nats per shard by which the published order is likelier."""
        return float(self.differences.mean())

    @property
    def items_per_window(self) -> float:
        """Items that are read together on average. At one and less, order hardly shows."""
        return self.window * self.n_items / self.n_tokens

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON types."""
        as_they_are = (
            "checkpoint checkpoint_digest p z mean_difference nats_per_token permutations window"
            " n_items n_tokens n_longer items_per_window seed"
        )
        control = self.control and {
            "points": [vars(point) for point in self.control.points],
            "repeats_needed": self.control.repeats_needed,
            "learning_rate": self.control.learning_rate,
            "batch_windows": self.control.batch_windows,
        }
        return {
            **{name: getattr(self, name) for name in as_they_are.split()},
            "differences": self.differences.tolist(),
            "n_shards": len(self.differences),
            "shard_sizes": list(self.shard_sizes),
            "control": control,
            "cannot_see": list(ORDER_CANNOT_SEE),
        }

    def summary(self) -> str:
        """The result in words, its control beside it."""
        longer = f"; {self.n_longer} items are longer than it" if self.n_longer else ""
        lines = [
            "Published order against shuffled [measured]",
            f"  of {self.checkpoint} (weights {self.checkpoint_digest})",
            f"  p = {self.p:.3g} (t = {self.z:.2f}), published order likelier by"
            f" {self.mean_difference:.3g} nats per shard",
            f"  {self.n_items} items in {len(self.differences)} shards of "
            f"{'{} to {}'.format(*self.shard_sizes)}, {self.permutations} shuffles of each",
            f"  window {self.window} tokens, {self.items_per_window:.1f} items in one{longer}",
        ]
        if self.control is None:
            lines.append("  no positive control was run: a high p says nothing")
        else:
            needed = self.control.repeats_needed
            lines += ["  positive control, a copy trained on the items [measured]:"] + [
                f"    {point.repeats} x: p = {point.p:.3g}, t = {point.z:.2f},"
                f" {point.nats_per_token:.3g} nats per token"
                for point in self.control.points
            ]
            lines.append(
                f"    p < {SIGNIFICANT:g} from {needed} repeats on"
                if needed
                else f"    p < {SIGNIFICANT:g} is not there at the end: this test is blind here"
            )
        return "\n".join([*lines, "  cannot see:", *(f"    {w}" for w in ORDER_CANNOT_SEE)])


def order_test(
    checkpoint: Checkpoint,
    items: Items,
    *,
    shards: int = 20,
    permutations: int = 30,
    window: int | None = None,
    between: str | None = "\n",
    repeats: Sequence[int] = (1, 2, 4, 8, 16),
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> OrderTest:
    """Whether a checkpoint prefers the published order of items, and whether it would if it knew.

    Args:
        checkpoint: The model in question.
        items: In their published order.
        shards: Groups of neighbours, each with a difference of its own: r above.
        permutations: Shuffles of each shard: m above.
        window: Tokens read at once; None: the checkpoint's context.
        between: Written behind each item that is text; None: the end-of-document token.
        repeats: Passes after which the positive control is tested; empty: no control.
        learning_rate: Of the control's AdamW.
        seed: Decides the shuffles, and the order of the control's training.

    Raises:
        DataError: There are fewer than two items a shard, the window does not fit the context,
            an item holds nothing, or order changes nothing at all.
    """
    window = checkpoint.seq_len if window is None else window
    rows = _ordered(checkpoint, items, between)
    question = _Question(tuple(rows), shards, permutations, window, seed)
    question.refuse_hopeless(checkpoint)
    differences, nats_per_token = question.ask(checkpoint)
    p, z = _judged(differences)
    control = _control(checkpoint, question, repeats, learning_rate) if repeats else None
    return OrderTest(
        str(checkpoint.path),
        checkpoint.digest,
        p,
        z,
        differences,
        nats_per_token,
        (min(map(len, question.members())), max(map(len, question.members()))),
        permutations,
        window,
        len(rows),
        sum(map(len, rows)),
        sum(len(row) > window for row in rows),
        seed,
        control,
    )


def positive_control(
    checkpoint: Checkpoint,
    items: Items,
    repeats: Sequence[int] = (1, 2, 4, 8, 16),
    *,
    shards: int = 20,
    permutations: int = 30,
    window: int | None = None,
    between: str | None = "\n",
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> PositiveControl:
    """The order test on a copy of the model, as the copy is trained on the items in order.

    The copy sees nothing else and is asked at once, so real contamination by as many repeats
    shows less. Arguments and errors are those of `order_test`, and so are the shuffles.
    """
    window = checkpoint.seq_len if window is None else window
    rows = _ordered(checkpoint, items, between)
    question = _Question(tuple(rows), shards, permutations, window, seed)
    question.refuse_hopeless(checkpoint)
    return _control(checkpoint, question, repeats, learning_rate)


@dataclass(frozen=True, eq=False)
class _Question:
    """Items and shuffles; the same for every model that is asked."""

    rows: tuple[np.ndarray, ...]
    shards: int
    permutations: int
    window: int
    seed: int

    def refuse_hopeless(self, checkpoint: Checkpoint) -> None:
        if self.shards < 2 or self.permutations < 1:
            raise DataError(
                f"{self.shards} shards and {self.permutations} shuffles are no test",
                where="shards, permutations",
                fix="ask for 2 shards and 1 shuffle, or more",
            )
        if len(self.rows) < 2 * self.shards:
            raise DataError(
                f"{len(self.rows)} items are too few for {self.shards} shards of 2 or more",
                where="items, shards",
                fix="give more items, or ask for fewer shards",
            )
        if not 2 <= self.window <= checkpoint.seq_len:
            raise DataError(
                f"a window of {self.window} tokens does not fit a context of {checkpoint.seq_len}",
                where="window",
                fix=f"choose 2 to {checkpoint.seq_len}",
            )

    def members(self) -> list[np.ndarray]:
        """Items of each shard, neighbours together."""
        return np.array_split(np.arange(len(self.rows)), self.shards)

    def ask(self, checkpoint: Checkpoint) -> tuple[np.ndarray, float]:
        """The difference of each shard, nats, and nats per token of the published order."""
        end, differences, published = np.array([checkpoint.tokenizer.end]), [], 0.0
        for s, members in enumerate(self.members()):
            rng = np.random.default_rng((self.seed, s))
            orders = [members, *(rng.permutation(members) for _ in range(self.permutations))]
            # Behind an END every token of an item is scored, whichever comes first.
            rows = [np.concatenate([end, *(self.rows[i] for i in order)]) for order in orders]
            cut = [
                (k, row[start : start + self.window + 1])
                for k, row in enumerate(rows)
                for start in range(0, len(row) - 1, self.window)
            ]
            found = checkpoint.logprobs([part for _, part in cut])
            total = np.bincount([k for k, _ in cut], [row.sum() for row in found])
            differences.append(total[0] - total[1:].mean())
            published += float(total[0])
        d = np.array(differences)
        if np.ptp(d) <= 1e-9 * abs(published) / self.shards:
            raise DataError(
                "no shuffle changes anything, so there is nothing to compare",
                where=str(checkpoint.path),
                fix="give items that differ, and a model that was trained",
            )
        return d, -published / sum(map(len, self.rows))


def _judged(differences: np.ndarray) -> tuple[float, float]:
    """The one-sided p-value of shard differences, and their t statistic."""
    found = stats.ttest_1samp(differences, 0, alternative="greater")
    return float(found.pvalue), float(found.statistic)


def _ordered(checkpoint: Checkpoint, items: Items, between: str | None) -> list[np.ndarray]:
    """Items as tokens, what stands between texts included."""
    if len(items) and isinstance(items[0], str):
        tokenizer = checkpoint.tokenizer
        rows = tokenizer.encode([text + (between or "") for text in items])
        if between is None:
            rows = [np.append(row, tokenizer.end) for row in rows]
        _refuse_empty([text if text.strip() else "" for text in items])
        return rows
    _refuse_empty(items)
    return [np.asarray(row, np.int64) for row in items]


def _refuse_empty(items: Items) -> None:
    empty = [i for i, item in enumerate(items) if len(item) == 0]
    if empty or not len(items):
        what = f"{len(empty)} of {len(items)} items hold nothing" if len(items) else "no items"
        raise DataError(
            what,
            where=f"items {', '.join(map(str, empty[:5]))}" if empty else "items",
            fix="give items that hold text or tokens",
        )


def _control(
    checkpoint: Checkpoint, question: _Question, repeats: Sequence[int], learning_rate: float
) -> PositiveControl:
    if list(repeats) != sorted(set(repeats)) or min(repeats, default=0) < 1:
        raise DataError(
            f"repeats {list(repeats)} are not whole numbers that rise from 1 or more",
            where="repeats",
            fix="write such as (1, 2, 4, 8, 16)",
        )
    known = replace(checkpoint, network=copy.deepcopy(checkpoint.network))
    known.network.requires_grad_(True)
    optimizer = torch.optim.AdamW(known.network.parameters(), lr=learning_rate)
    row = np.concatenate([[checkpoint.tokenizer.end], *question.rows])
    width, at_once, points = min(question.window, len(row) - 1), 8, []
    for done in range(1, max(repeats) + 1):
        rng = np.random.default_rng((question.seed, question.shards, done))
        # Cut anew in each pass, or the model learns the cuts. The windows at either end overlap
        # the next ones, so that nothing is left out and less than two windows are seen twice.
        cuts = np.arange(rng.integers(width) - width, len(row) - 1, width)
        starts = rng.permutation(np.unique(np.clip(cuts, 0, len(row) - 1 - width)))
        for first in range(0, len(starts), at_once):
            batch = np.stack([row[s : s + width + 1] for s in starts[first : first + at_once]])
            tokens = torch.from_numpy(batch).to(known.device)
            loss = known.network(tokens[:, :-1], tokens[:, 1:])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if not torch.isfinite(loss):
            raise DataError(
                f"the positive control diverged in pass {done}",
                where=f"learning_rate {learning_rate:g}",
                fix="choose a smaller one",
            )
        if done in repeats:
            differences, nats = question.ask(known)
            points.append(
                ControlPoint(done, *_judged(differences), float(differences.mean()), nats)
            )
    return PositiveControl(tuple(points), learning_rate, at_once)


@dataclass(frozen=True)
class Finding:
    """One n-gram of an item that stands in the training text."""

    item: int
    text: str
    """Of the item's first n-gram that was found."""
    document: int
    """Number of a training document that holds it, from 0."""


@dataclass(frozen=True, eq=False)
class Overlap:
    """How much of each test item stands in the training text."""

    training: str
    """What was searched."""
    unit: Unit
    n: int
    n_training: int
    """Tokens or words searched."""
    n_grams: np.ndarray
    """Of each item, shape (n_items,). A short item is one n-gram, whole."""
    n_found: np.ndarray
    """Those that stand in the training text, shape (n_items,)."""
    is_short: np.ndarray
    """Whether an item is shorter than n, shape (n_items,)."""
    bytes_per_gram: float | None
    """UTF-8 bytes that n tokens or words of the items are on average; None: not known as text."""
    findings: tuple[Finding, ...]
    """One for each item that was found."""

    @property
    def share_of_items(self) -> float | None:
        """Of the items with n or more, the share of which anything was found; None: none such."""
        return _share((self.n_found > 0)[~self.is_short])

    @property
    def share_of_grams(self) -> float | None:
        """Of the n-grams of the same items, the share that was found."""
        n_grams, n_found = self.n_grams[~self.is_short], self.n_found[~self.is_short]
        return float(n_found.sum() / n_grams.sum()) if n_grams.size else None

    @property
    def share_of_short(self) -> float | None:
        """Of the items shorter than n, the share that was found whole; None: none such."""
        return _share((self.n_found > 0)[self.is_short])

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON types."""
        as_they_are = (
            "training unit n n_training share_of_items share_of_grams share_of_short bytes_per_gram"
        )
        return {
            **{name: getattr(self, name) for name in as_they_are.split()},
            "items": {
                "n_grams": self.n_grams.tolist(),
                "n_found": self.n_found.tolist(),
                "is_short": self.is_short.tolist(),
            },
            "findings": [vars(finding) for finding in self.findings],
            "cannot_see": list(OVERLAP_CANNOT_SEE),
        }

    def summary(self) -> str:
        """The result in words, with a few findings to look at."""
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
                f"  items shorter than {self.n} {self.unit}, looked for whole: {n_hit} of"
                f" {n_short} found, and not in the shares above"
            )
        lines += [
            f"    item {f.item}, training document {f.document}: {f.text!r:.100}"
            for f in self.findings[:5]
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
    """Which n-grams of test items stand in training text, none missed and none made up.

    An n-gram lies inside one document. Tokens depend on what stands before them, so that an
    item's first and last may be cut otherwise than inside a document; words do not, and take
    longer, since a corpus must be decoded.

    Args:
        items: Texts, or rows of the training tokens. Words are of texts alone.
        training: A prepared corpus, of which the training side is searched; or texts, such as
            those of fine-tuning.
        n: Length, in units.
        unit: What is compared.
        tokenizer: Cuts items and texts where `training` is texts and the unit is tokens. A
            corpus has its own.

    Raises:
        DataError: An item holds nothing, n is not 1 or more, or items, training and unit do not
            go together.
    """
    if n < 1:
        raise DataError(f"{n}-grams hold nothing", where="n", fix="choose 1 or more")
    _refuse_empty(items)
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
                "there is no tokenizer to compare texts by tokens",
                "name one (tokenizer=...), compare words, or give the items as tokens",
            )
        rows = tokenizer.encode(items) if are_texts else [np.asarray(r, np.int64) for r in items]
        if isinstance(training, Corpus):
            pieces = _pieces(training, n)
        else:
            pieces = _together(tokenizer.encode([text])[0] for text in training)
    _refuse_empty(rows)

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
            shown = _shown(items[i], rows[i][place : place + index.size], place, unit, tokenizer)
            findings.append(Finding(i, shown, int(index.document[index.gram[at]])))
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
    """The distinct n-grams of some items, by hash, and where each was found.

    Args:
        rows: Every item.
        chosen: Those to take, ascending.
        size: Their n.
    """

    def __init__(self, rows: Sequence[np.ndarray], chosen: np.ndarray, size: int):
        self.size = int(size)
        tokens = np.concatenate([rows[i] for i in chosen])
        lengths = np.array([len(rows[i]) for i in chosen])
        n_grams = lengths - self.size + 1
        self.item = np.repeat(chosen, n_grams)
        """Item of each n-gram, ascending."""
        # Where each n-gram starts: what the items before it hold beyond their n-grams is skipped.
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
        """A training document that holds each distinct n-gram; -1 where none was found."""
        bits = min(_MOST_BITS, max(10, (8 * len(self._hashes)).bit_length()))
        self._shift = U64(64 - bits)
        held = np.bincount(self._hashes >> self._shift, minlength=1 << bits)
        self._is_held, self._most_held = held > 0, int(held.max())
        self._behind = np.cumsum(held).astype(np.int32)
        """Place behind the last distinct n-gram whose hash begins with these bits."""

    def look(self, piece: np.ndarray, hashes: np.ndarray, first: int, ends: np.ndarray) -> None:
        """Find what a piece of the training text holds; `hashes` are of its n-grams."""
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
    """Look for everything in every piece; returns how many tokens or words they hold together."""
    n_training = 0
    for piece, first, ends in pieces:
        n_training += len(piece)
        running = _running(piece)
        for index in indexes:
            if index.size <= len(piece):
                index.look(piece, _hashes(running, index.size), first, ends)
    return n_training


def _running(tokens: np.ndarray) -> np.ndarray:
    """Sums of mix(x_i) * B**i over the first 0, 1, 2, ... tokens, uint64."""
    running = np.zeros(len(tokens) + 1, U64)
    np.cumsum(_scrambled(tokens) * _powers(_BASE, len(tokens)), out=running[1:])
    return running


def _hashes(running: np.ndarray, size: int) -> np.ndarray:
    """Of the n-gram that starts at each token, uint64; see the head of this file."""
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


def _shown(
    item: str | Sequence[int],
    gram: np.ndarray,
    place: int,
    unit: Unit,
    tokenizer: TextTokenizer | None,
) -> str:
    """An n-gram for eyes."""
    if unit == "words":
        return " ".join(_words(item)[place : place + len(gram)])
    return tokenizer.decode(gram) if tokenizer else " ".join(map(str, gram))


def _share(claims: np.ndarray) -> float | None:
    return float(claims.mean()) if claims.size else None


def _unlike(problem: str, fix: str) -> DataError:
    return DataError(problem, where="items, training, unit", fix=fix)
