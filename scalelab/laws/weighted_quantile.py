"""Quantiles of values that weigh differently.

    quantile(level)  the least value at or below which the share `level` of the weight lies
    median           the mean of the least and the greatest value with half of the weight on either side

A value of weight 2 counts as two equal values.

Not here: quantiles of bootstrap replicates, which all weigh the same (uncertainty/bootstrap.py).
"""

import numpy as np

from scalelab.laws.observations import Array

TIE = 1e-12
"""Share of the weight by which rounding may put a sum below a level."""


def weighted_quantile(values: Array, weight: Array, level: float) -> float:
    """Return the least value at or below which a share of the weight lies.

    Args:
        values: Shape (n,).
        weight: Weight of each, not negative, shape (n,).
        level: The share, 0 to 1.
    """
    order = np.argsort(values, kind="stable")
    below = np.cumsum(weight[order])
    last = min(int(np.searchsorted(below, (level - TIE) * below[-1])), len(values) - 1)
    return float(values[order][last])


def weighted_median(values: Array, weight: Array) -> float:
    """Return the middle of the values, shape (n,): where two share it, their mean."""
    return (weighted_quantile(values, weight, 0.5) - weighted_quantile(-values, weight, 0.5)) / 2
