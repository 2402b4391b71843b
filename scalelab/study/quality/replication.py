"""Runs that stand in the evidence more than once: written twice, or repeated.

Not here: repeats that differ in a setting of the recipe (recipes.py).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import chdtri  # scipy.stats takes .4 s to import

from scalelab.laws.columns import STEPS, UNIQUE_TOKENS
from scalelab.laws.observations import Array, Observations, alike
from scalelab.study.quality.finding import QualityFinding, run_names

LUCK = 0.005  # sd between seeds, share of the loss: .1 to .4% in published repeats and in our own
TOO_MUCH = 0.02  # sd; a mean that is so far from the best run is tens of percent of compute
RUINED, FEW_CELLS = 0.1, 4  # share of the cells that a diverged run may be in; asked of this many
LEVEL = 0.95  # at which the sd of a few repeats must exceed these


def duplicates(runs: Observations) -> Iterator[QualityFinding]:
    """Rows that repeat another in every number: one run, written twice."""
    numbers = (runs.N, runs.D, runs.L, runs.C, runs.seed)
    which = alike(*numbers, *runs.own_columns.values(), *runs.recipe.values())
    _, first = np.unique(which, return_index=True)
    for row in np.flatnonzero(first[which] != np.arange(len(runs))):
        reason = (
            f"repeats {runs.run[first[which[row]]]} in size, tokens, FLOPs, loss "
            f"({runs.L[row]:.6g}) and seed: one run, written twice"
        )
        yield QualityFinding("duplicate", run_names(runs, row[None]), reason, excluded=True)


def repeats(runs: Observations) -> Iterator[QualityFinding]:
    """Runs of equal size and tokens that differ in loss: by no seed, or by more than a seed does."""
    cell = _cells(runs)
    seed = alike(cell, runs.seed)
    again = np.bincount(seed)[seed] > 1
    spread = relative_spread(runs.L, seed)
    apart = _apart(runs.L, seed)
    if spread is not None and spread.low > LUCK:
        reason = (
            f"{again.sum()} runs share size, tokens and seed with another, and their losses differ by "
            f"{spread.sd:.2%} of the loss (standard deviation; {apart:.2g} nats at the most), more than "
            f"the {LUCK:.1%} that a seed explains: which setting differs? Name its column, as in --columns "
            "learning_rate=LR or batch_size=BATCH, and the best of each size and tokens is fitted; now their "
            "mean is"
        )
        found = QualityFinding("unexplained repeats", run_names(runs, again), reason, grave=True)
        yield replace(found, disqualifying=spread.sd > TOO_MUCH)
    elif again.any():
        reason = (
            f"{again.sum()} runs share size, tokens and seed with another and differ in loss, by up "
            f"to {apart:.2g} nats: is the seed column filled in, the recipe the same?"
        )
        yield QualityFinding("repeat", run_names(runs, again), reason)
    several = np.bincount(cell)[cell] > 1
    between = relative_spread(runs.L, cell)
    if between is not None and between.low > TOO_MUCH and not (spread and spread.low > LUCK):
        reason = (
            f"{several.sum()} runs differ by their seed alone from another, and their losses by "
            f"{between.sd:.1%} of the loss (standard deviation): unstable training, or another setting?"
        )
        yield QualityFinding("noisy seeds", run_names(runs, several), reason, grave=True)


def seeds_are_comparable(findings: Iterable[QualityFinding]) -> bool:
    """Whether repeated runs show the noise between seeds, and nothing else."""
    return all(found.code != "unexplained repeats" for found in findings)


@dataclass(frozen=True)
class RelativeSpread:
    """Pooled standard deviation of repeated losses, as a share of the loss."""

    sd: float
    dof: int

    @property
    def low(self) -> float:
        """Lower end of the one-sided interval of sd, at LEVEL."""
        return float(self.sd * np.sqrt(self.dof / chdtri(self.dof, 1 - LEVEL)))


def relative_spread(L: Array, cell: Array) -> RelativeSpread | None:
    """The spread of the losses within cells, the worst few left aside; None where none has two runs.

    Args:
        L: Losses, nats per token.
        cell: Number of each run's cell, from 0.
    """
    count = np.bincount(cell)
    mean = np.bincount(cell, L) / count
    square = np.bincount(cell, (L / mean[cell] - 1) ** 2)
    dof = count - 1
    many = np.flatnonzero(dof)
    if not many.size:
        return None
    if many.size >= FEW_CELLS:
        many = many[np.argsort(square[many] / dof[many], kind="stable")][: -int(np.ceil(RUINED * many.size))]
    pooled = int(dof[many].sum())
    return RelativeSpread(float(np.sqrt(square[many].sum() / pooled)), pooled)


def _cells(runs: Observations) -> Array:
    """The number of each run's cell: all is equal that may not differ between repeats, but the seed."""
    return alike(
        runs.N,
        runs.D,
        runs.recorded(UNIQUE_TOKENS.name),
        runs.recorded(STEPS.name),
        runs.flops_planned,
        *runs.own_columns.values(),
        *runs.recipe.values(),
    )


def _apart(L: Array, cell: Array) -> float:
    """The largest difference within a cell."""
    order = np.lexsort((L, cell))
    starts = np.flatnonzero(np.diff(cell[order], prepend=-1))
    low, high = (at.reduceat(L[order], starts) for at in (np.minimum, np.maximum))
    return float((high - low).max())
