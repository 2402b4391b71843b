"""Runs that contradict one another: counts that jump, losses that rise, unfinished schedules.

Symbols: f = C / (6 N D), what a run spent as a share of the shorthand.
"""

from collections.abc import Iterator

import numpy as np

from scalelab.laws.observations import Observations, alike
from scalelab.study.quality.finding import QualityFinding, run_names
from scalelab.units import si

MIXED = 0.1  # jump of f between equal sizes: a head or attention counted here, and not there
NEAR = 1.02  # sizes within this factor are equal; f moves by less than 1% on that way
LONGER, RISE = 1.5, 0.01  # this much more data lowers loss by 1% or more; two seeds differ by .4%


def mixed_counts(runs: Observations) -> Iterator[QualityFinding]:
    """FLOPs per token and parameter that jump between equal sizes."""
    order = np.argsort(runs.N, kind="stable")
    N, f = runs.N[order], (runs.C / (6 * runs.N * runs.D))[order]
    jump = (N[1:] <= NEAR * N[:-1]) & (np.abs(np.log(f[1:] / f[:-1])) > np.log1p(MIXED))
    if not jump.any():
        return
    which = np.unique(np.concatenate([order[1:][jump], order[:-1][jump]]))
    worst = np.argmax(np.abs(np.log(f[1:] / f[:-1])) * jump)
    reason = (
        f"flops / (6 N D) is {f[worst]:.3g} and {f[worst + 1]:.3g} for runs of equal size "
        f"({si(N[worst])}): are parameters or FLOPs counted in two ways?"
    )
    yield QualityFinding("mixed counts", run_names(runs, which), reason, grave=True)


def unfinished(runs: Observations) -> Iterator[QualityFinding]:
    """Several token counts from one trunk: branches, or losses before the cooldown. A trunk has one size."""
    group = alike(np.unique(runs.group, return_inverse=True)[1], runs.N)
    if group.max() + 1 == len(runs):
        return
    points = alike(group, runs.D)
    _, first = np.unique(points, return_index=True)
    many = np.bincount(group[first])[group] > 1
    if many.any():
        reason = (
            f"{many.sum()} runs share group and size with runs of other token counts: right for branches "
            "that each had a cooldown; checkpoints before it have losses that are too high"
        )
        yield QualityFinding("intermediate", run_names(runs, many), reason)


def rising(runs: Observations) -> Iterator[QualityFinding]:
    """Loss that rises with tokens at equal size: diverging, repeating data, or a bad rate.

    Where a law reads more of the recipe, such as the rate, it is the law's to explain.
    """
    if runs.own_columns:
        return
    _, size = np.unique(runs.N, return_inverse=True)
    at = 1e4 * size + np.log(runs.D)  # one sorted line, sizes far apart on it
    order = np.argsort(at, kind="stable")
    shorter = np.searchsorted(at[order], at - np.log(LONGER) + 1e-6, side="right") - 1
    before = order[np.maximum(shorter, 0)]
    rise = np.where((shorter >= 0) & (size[before] == size), runs.L / runs.L[before] - 1, 0)
    up = rise > RISE
    if up.any():
        reason = (
            f"loss rises with tokens at equal size, by {rise.max():.1%} of the loss at the worst: "
            "unstable, repeated text, or another recipe?"
        )
        yield QualityFinding("rising", run_names(runs, up), reason, grave=True)
