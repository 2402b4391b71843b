"""Test for training on test items, from the model's preference for their published order.

A model that never saw the items has no reason to prefer the order in which they were published;
one that saw them in that order does. The items are cut into r shards, and in each one

    d_s = log p(published order) - mean over m shuffles of log p(shuffled)         nats
    t = mean(d) / (sd(d) / sqrt(r)), one-sided p with r - 1 degrees of freedom

The test has power only after many repeats in training, so a high p alone shows nothing. It is
reported with a positive control: the same test on a copy that was trained on the items.

Source:   Oren et al. 2023, arXiv:2310.17623, section 4 (its reference code takes sd with ddof 0,
          which is slightly overconfident; here ddof is 1); Brown et al. 2020, arXiv:2005.14165,
          appendix C, on 13-grams.
Not here: near-copies inside a corpus (data/corpus/split.py), loss on documents (perplexity.py).
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy import stats

from scalelab.errors import DataError
from scalelab.evals.checkpoint import Checkpoint

Items = Sequence[str] | Sequence[Sequence[int]]
"""Test items in their published order, as texts or tokens."""
SIGNIFICANT = 0.05
ORDER_CANNOT_SEE = (
    "items that were trained on in another order, one at a time, or reworded",
    "a few repeats among many other tokens: compare with the control, which saw the items last and undiluted",
    "innocent order: items sorted by topic, length or source make any model prefer their order",
)


@dataclass(frozen=True)
class ControlPoint:
    """The order test on a copy that was trained on the items this many times."""

    repeats: int
    p: float
    z: float
    mean_difference: float
    """Nats per shard."""
    nats_per_token: float
    """Loss of the items in their published order."""


@dataclass(frozen=True)
class PositiveControl:
    """Order test on a copy that was trained on the items in order."""

    points: tuple[ControlPoint, ...]
    """Results by increasing repeats."""
    learning_rate: float
    batch_windows: int

    @property
    def repeats_needed(self) -> int | None:
        """Fewest repeats from which p stays below SIGNIFICANT; None if the last p is above it.

        A single p is below it by chance once in twenty times.
        """
        needed = None
        for point in reversed(self.points):
            if point.p >= SIGNIFICANT:
                break
            needed = point.repeats
        return needed


@dataclass(frozen=True, eq=False)
class OrderTest:
    """Result of the order test for one model."""

    checkpoint: str
    checkpoint_digest: str
    p: float
    """One-sided p-value: small if the published order is more likely than shuffles."""
    z: float
    """The t statistic, with n_shards - 1 degrees of freedom."""
    differences: np.ndarray
    """d of each shard, nats, shape (n_shards,)."""
    nats_per_token: float
    """Loss of the items in their published order."""
    shard_sizes: tuple[int, int]
    """Items in the smallest and the largest shard."""
    permutations: int
    window: int
    """Tokens read at once."""
    n_items: int
    n_tokens: int
    """Tokens of all items together."""
    n_longer: int
    """Items longer than the window, for which order matters only at the boundary to the next one."""
    seed: int
    control: PositiveControl | None
    """Positive control; None if not requested."""

    @property
    def mean_difference(self) -> float:
        """Nats per shard by which the published order is more likely."""
        return float(self.differences.mean())

    @property
    def items_per_window(self) -> float:
        """Mean number of items in a window. At one or less, order has little effect."""
        return self.window * self.n_items / self.n_tokens

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON types."""
        unchanged = (
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
            **{name: getattr(self, name) for name in unchanged.split()},
            "differences": self.differences.tolist(),
            "n_shards": len(self.differences),
            "shard_sizes": list(self.shard_sizes),
            "control": control,
            "cannot_see": list(ORDER_CANNOT_SEE),
        }

    def summary(self) -> str:
        """Return the result and its control as text."""
        longer = f"; {self.n_longer} items are longer than it" if self.n_longer else ""
        lines = [
            "Published order against shuffled [measured]",
            f"  of {self.checkpoint} (weights {self.checkpoint_digest})",
            f"  p = {self.p:.3g} (t = {self.z:.2f}), published order more likely by"
            f" {self.mean_difference:.3g} nats per shard",
            f"  {self.n_items} items in {len(self.differences)} shards of "
            f"{'{} to {}'.format(*self.shard_sizes)}, {self.permutations} shuffles of each",
            f"  window {self.window} tokens, {self.items_per_window:.1f} items in one{longer}",
        ]
        if self.control is None:
            lines.append("  no positive control was run: a high p shows nothing")
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
                else f"    p < {SIGNIFICANT:g} is not reached: the test has no power here"
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
    """Test whether a checkpoint prefers the published order of items, with a positive control.

    Args:
        checkpoint: The model to test.
        items: Items in their published order.
        shards: Number of groups of consecutive items: r above.
        permutations: Shuffles of each shard: m above.
        window: Tokens in one window; None: the checkpoint's context.
        between: Text after each text item; None: the end-of-document token.
        repeats: Passes after which the positive control is tested; empty: no control.
        learning_rate: Learning rate of the control's AdamW.
        seed: Seed of the shuffles and of the control's training order.

    Raises:
        DataError: There are fewer than two items a shard, the window does not fit the context,
            an item is empty, or order has no effect.
    """
    window = checkpoint.seq_len if window is None else window
    rows = _ordered(checkpoint, items, between)
    question = _TestItems(tuple(rows), shards, permutations, window, seed)
    question.validate(checkpoint)
    differences, nats_per_token = question.evaluate(checkpoint)
    p, z = _t_test(differences)
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
    """Run the order test on a copy of the model while it is trained on the items in order.

    The copy is trained on nothing else and tested immediately, so real contamination with the same number
    of repeats has a smaller effect. Errors and shuffles are those of `order_test`.

    Args:
        checkpoint: The model to copy.
        items: Items in their published order.
        repeats: Passes after which the copy is tested.
        shards: Number of groups of consecutive items: r above.
        permutations: Shuffles of each shard: m above.
        window: Tokens in one window; None: the checkpoint's context.
        between: Text after each text item; None: the end-of-document token.
        learning_rate: Learning rate of AdamW.
        seed: Seed of the shuffles and of the training order.
    """
    window = checkpoint.seq_len if window is None else window
    rows = _ordered(checkpoint, items, between)
    question = _TestItems(tuple(rows), shards, permutations, window, seed)
    question.validate(checkpoint)
    return _control(checkpoint, question, repeats, learning_rate)


@dataclass(frozen=True, eq=False)
class _TestItems:
    """Items and shuffles; the same for every model."""

    rows: tuple[np.ndarray, ...]
    shards: int
    permutations: int
    window: int
    seed: int

    def validate(self, checkpoint: Checkpoint) -> None:
        if self.shards < 2 or self.permutations < 1:
            raise DataError(
                f"{self.shards} shards and {self.permutations} shuffles are too few for a test",
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
        """Return the item numbers of each shard, consecutive ones together."""
        return np.array_split(np.arange(len(self.rows)), self.shards)

    def evaluate(self, checkpoint: Checkpoint) -> tuple[np.ndarray, float]:
        """Return the difference of each shard, nats, and nats per token of the published order."""
        end, differences, published = np.array([checkpoint.tokenizer.end]), [], 0.0
        for s, members in enumerate(self.members()):
            rng = np.random.default_rng((self.seed, s))
            orders = [members, *(rng.permutation(members) for _ in range(self.permutations))]
            # A leading END means that every token is scored, whichever item comes first.
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
                "shuffling has no effect, so there is nothing to compare",
                where=str(checkpoint.path),
                fix="give items that differ, and a model that was trained",
            )
        return d, -published / sum(map(len, self.rows))


def _t_test(differences: np.ndarray) -> tuple[float, float]:
    """Return the one-sided p-value of shard differences and their t statistic."""
    found = stats.ttest_1samp(differences, 0, alternative="greater")
    return float(found.pvalue), float(found.statistic)


def _ordered(checkpoint: Checkpoint, items: Items, between: str | None) -> list[np.ndarray]:
    """Return items as tokens, including the separator of texts."""
    if len(items) and isinstance(items[0], str):
        tokenizer = checkpoint.tokenizer
        rows = tokenizer.encode([text + (between or "") for text in items])
        if between is None:
            rows = [np.append(row, tokenizer.end) for row in rows]
        refuse_empty([text if text.strip() else "" for text in items])
        return rows
    refuse_empty(items)
    return [np.asarray(row, np.int64) for row in items]


def refuse_empty(items: Items) -> None:
    """Raise DataError if there are no items or one is empty."""
    empty = [i for i, item in enumerate(items) if len(item) == 0]
    if empty or not len(items):
        what = f"{len(empty)} of {len(items)} items are empty" if len(items) else "no items"
        raise DataError(
            what,
            where=f"items {', '.join(map(str, empty[:5]))}" if empty else "items",
            fix="give items that contain text or tokens",
        )


def _control(
    checkpoint: Checkpoint, question: _TestItems, repeats: Sequence[int], learning_rate: float
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
        # New boundaries in each pass, or the model learns them. The first and last windows overlap
        # their neighbours, so that every token is covered and less than two windows repeat.
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
            differences, nats = question.evaluate(known)
            points.append(ControlPoint(done, *_t_test(differences), float(differences.mean()), nats))
    return PositiveControl(tuple(points), learning_rate, at_once)
