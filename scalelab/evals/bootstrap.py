"""Bootstrap intervals: the check of the number of replicates, and the percentile interval."""

import numpy as np

from scalelab.errors import ConfigError

Array = np.ndarray


def check_replicates(level: float, replicates: int) -> None:
    """Check that the level is a share and that ten replicates lie beyond each end of an interval.

    Raises:
        ConfigError: The level is not a share, or replicates are too few. Zero replicates are allowed.
    """
    where = "the settings of a bootstrap"
    if not 0 < level < 1:
        raise ConfigError(f"level {level} is not a share", where=where, fix="write .95 for 95%")
    if replicates and replicates * (1 - level) / 2 < 10 - 1e-9:  # 1 - .9 is a little under .1
        raise ConfigError(
            f"{replicates} replicates leave {replicates * (1 - level) / 2:.1f} beyond each end",
            where=where,
            fix=f"at least {int(np.ceil(20 / (1 - level) - 1e-6))} replicates at level {level}, "
            "or 0 for no interval",
        )


def interval(draws: Array, level: float) -> Array:
    """Return the central `level` of draws (r, ...) over replicates: low and high end, shape (..., 2).

    Source: the percentile method, Efron & Tibshirani 1993, chapter 13.
    """
    ends = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return np.moveaxis(ends, 0, -1)
