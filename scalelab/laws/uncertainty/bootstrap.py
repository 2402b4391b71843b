"""Intervals by the bootstrap: the evidence drawn again, the whole fit done again.

What may be drawn again is a question about the runs, not about the law:

* A surface sees all runs at once. Its runs are drawn with replacement, together with those that
  shared their luck, within each budget (resampling_units.py). Source: Efron & Tibshirani 1993,
  chapters 6 and 8; on scaling runs, Besiroglu et al. 2024, arXiv:2404.10102.
* A parabola sees five to seven runs of one slice. Drawn with replacement these leave three
  distinct sizes or fewer, and the spread says more about lost sizes than about noise. There
  the noise is drawn instead: isoflop/law.py.

Intervals are percentiles: they need no normality and are the same for N* and ln N*.
"""

import numpy as np

from scalelab.laws.base import Replicates
from scalelab.laws.description import Interval
from scalelab.laws.observations import Array

TOO_MANY_FAILED = 0.2  # share of failed replicates beyond which no interval is given


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
