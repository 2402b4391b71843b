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

import numpy as np

from scalelab.laws.base import Array, Observations, Replicates

Interval = list[float] | None

TOO_MANY_FAILED = 0.2  # share of failed replicates beyond which no interval is given


def resampled_counts(runs: Observations, count: int, seed: int) -> Array:
    """How often each run is drawn in each replicate, shape (count, n).

    Groups are drawn with replacement within their stratum. A stratum is the set of budgets
    that its groups touch, so that a trunk with branches in several budgets stays whole.
    """
    rng = np.random.default_rng(seed)
    _, group = np.unique(runs.group, return_inverse=True)
    budget = np.searchsorted(runs.budgets, runs.flops_planned)  # NaN sorts last: its own stratum
    touched = [tuple(np.unique(budget[group == g])) for g in range(group.max() + 1)]
    drawn = np.zeros((count, len(touched)))
    for stratum in dict.fromkeys(touched):
        members = np.array([g for g, budgets in enumerate(touched) if budgets == stratum])
        shares = np.full(len(members), 1 / len(members))
        drawn[:, members] = rng.multinomial(len(members), shares, size=count)
    return drawn[:, group]


def percentile(values: Array, level: float) -> Interval:
    """The middle `level` of the values; None when there are too few to say.

    Ten replicates must lie beyond each end, or the end is one replicate's whim.
    """
    values = values[~np.isnan(values)]
    if values.size * (1 - level) / 2 < 10:
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
