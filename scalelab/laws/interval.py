"""Intervals by the bootstrap: the evidence drawn again, the whole fit done again.

What may be drawn again is a question about the runs, not about the law:

* A surface sees all runs at once. Its runs are drawn with replacement, whole groups at a
  time (branches of one trunk share their luck), within each budget, so that no replicate
  loses a slice. Source: Efron & Tibshirani 1993, chapters 6 and 8; on scaling runs,
  Besiroglu et al. 2024, arXiv:2404.10102.
* A parabola sees five to seven runs of one slice. Drawn with replacement these leave three
  distinct sizes or fewer, and the spread says more about lost sizes than about noise. There
  the noise is drawn instead: isoflop.py.

Intervals are percentiles: they need no normality and are the same for N* and ln N*.
"""

from collections.abc import Callable

import numpy as np

from scalelab.laws.base import Replicates
from scalelab.laws.observations import Array, Observations

Interval = list[float] | None

TOO_MANY_FAILED = 0.2  # share of failed replicates beyond which no interval is given


def resampled_counts(runs: Observations, seed: int) -> Callable[[int, int], Array]:
    """A function that draws replicates i to j: how often each has each run, shape (j - i, n).

    Groups are drawn with replacement within their stratum. A stratum is the set of budgets
    that its groups touch, so that a trunk with branches in several budgets stays whole.
    A replicate has a random stream of its own, so it does not depend on how many are drawn
    at once.
    """
    _, group = np.unique(runs.group, return_inverse=True)
    budget = np.searchsorted(runs.budgets, runs.flops_planned)  # NaN sorts last: its own stratum
    pairs = np.unique(np.stack([group, budget], axis=1), axis=0)
    touched: dict[int, list[int]] = {}
    for one, where in pairs.tolist():
        touched.setdefault(one, []).append(where)
    strata: dict[tuple[int, ...], list[int]] = {}
    for one, budgets in touched.items():
        strata.setdefault(tuple(budgets), []).append(one)
    members = [np.array(stratum) for stratum in strata.values()]

    def draw(first: int, last: int) -> Array:
        counts = np.empty((last - first, len(touched)))
        for row in range(first, last):
            rng = np.random.default_rng((seed, row))
            chosen = [each[rng.integers(len(each), size=len(each))] for each in members]
            counts[row - first] = np.bincount(np.concatenate(chosen), minlength=len(touched))
        return counts[:, group]

    return draw


def percentile(values: Array, level: float) -> Interval:
    """The middle `level` of the values; None when there are too few to say.

    Ten replicates must lie beyond each end, or the end is one replicate's whim.
    """
    values = values[~np.isnan(values)]
    if values.size * (1 - level) / 2 < 10 - 1e-9:  # 1 - .9 is a little under a tenth
        return None
    with np.errstate(invalid="ignore"):  # between infinities: not finite, refused below
        low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return [float(low), float(high)] if np.isfinite([low, high]).all() else None


def trusted(drawn: Replicates, values: Array, level: float) -> Interval:
    """The interval of one quantity; None where too many replicates failed to have one."""
    failed = drawn.failed + int(np.sum(np.isnan(values)))
    if failed > TOO_MANY_FAILED * drawn.asked:
        return None
    return percentile(values, level)
