"""Intervals whose width comes from how far forecasts of public tables were off: conformal calibration.

    half width of ln L*   q_L(level) s_L,  s_L = ((spread + .001) (rate lr + .002) (.01 lr))^(1/3)
    half width of ln N*   q_N(level) s_N,  s_N = sqrt(spread^2 + (.03 lr)^2)
    lr = ln(1 + max(reach, 1))
    expected error        q_L(EXPECTED) s_L / 1.5

spread  standard deviation of the settings of the law at the target, of ln L or of ln N*
rate    error of ln L per unit of lr at the origins inside the evidence; TYPICAL_RATE without any
reach   compute of the target over the largest in evidence; inside the evidence the width is that of its end

q is the quantile of |error| / s over public tables, every family of tables weighing the same. It is frozen
here and made anew by analysis/conformal.py, which also reports how well intervals cover a family that had
no part in their q. What the tables had in common is that people published them; a table of another kind
can be off by more, so the interval is never narrower than the noise of its own runs, and where fewer than
LEAST_ORIGINS origins show how the table extrapolates, than the spread of the laws.

Source: split conformal prediction, Vovk et al. 2005; scaled residuals, Lei et al. 2018, arXiv:1604.04173;
one group left out at a time, Barber et al. 2021, arXiv:1905.02928.

Not here: noise (bootstrap.py), the spread of laws (model_uncertainty.py), which is quoted (study/forecast.py).
"""

from dataclasses import dataclass

import numpy as np

from scalelab.laws.observations import Array

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Levels of the frozen quantiles; between them they are interpolated, outside there are none."""
LOSS_QUANTILES = (0.724, 0.938, 1.039, 1.307, 1.655, 2.642)
SIZE_QUANTILES = (1.099, 1.348, 1.585, 1.585, 2.307, 2.915)
TYPICAL_RATE = 0.006
"""Median rate of the public tables."""
EXPECTED = 0.8
"""Share of the errors that is at most 1.5 times the expected one."""
LEAST_ORIGINS = 3
"""Origins inside the evidence below which the width does not stand without the spread of the laws."""


@dataclass(frozen=True)
class CalibratedWidth:
    """How far a forecast may be off, from forecasts of other tables."""

    level: float
    loss: float
    """Half width of ln L*."""
    n_params: float
    """Half width of ln N*."""
    expected_error: float
    """Error of L* to expect, as a share; 80% of errors are at most 1.5 times as large."""
    origins: int
    """Origins inside the evidence that the width rests on."""

    @property
    def alone(self) -> bool:
        """Whether it stands without the spread of the laws."""
        return self.origins >= LEAST_ORIGINS


def loss_scale(spread: Array | float, rate: Array | float, reach: Array | float) -> Array:
    """s_L; broadcasts.

    Args:
        spread: Standard deviation of ln L over the settings of the law.
        rate: Error of ln L per unit of ln(1 + reach).
        reach: Compute of the target over the largest in evidence.
    """
    ahead = np.log1p(np.maximum(reach, 1.0))
    return np.cbrt((spread + 0.001) * (rate * ahead + 0.002) * 0.01 * ahead)


def size_scale(spread: Array | float, reach: Array | float) -> Array:
    """s_N; broadcasts.

    Args:
        spread: Standard deviation of ln N* over the settings of the law.
        reach: Compute of the target over the largest in evidence.
    """
    return np.hypot(spread, 0.03 * np.log1p(np.maximum(reach, 1.0)))


def quantile(quantiles: tuple[float, ...], level: float) -> float | None:
    """The frozen quantile at a level; None outside LEVELS.

    Args:
        quantiles: At LEVELS.
        level: Of the interval, 0 to 1.
    """
    if not LEVELS[0] - 1e-9 <= level <= LEVELS[-1] + 1e-9:
        return None
    return float(np.interp(level, LEVELS, quantiles))


def calibrated_width(
    *, level: float, reach: float, rate: float | None, loss_spread: float, size_spread: float, origins: int
) -> CalibratedWidth | None:
    """The width at one target; None at a level outside LEVELS.

    Args:
        level: Of the interval, 0 to 1.
        reach: Compute of the target over the largest in evidence.
        rate: Error of ln L per unit of ln(1 + reach) inside the evidence; None if it shows none.
        loss_spread: Standard deviation of ln L over the settings of the law.
        size_spread: The same of ln N*.
        origins: Origins that the rate comes from.
    """
    of_loss, of_size = quantile(LOSS_QUANTILES, level), quantile(SIZE_QUANTILES, level)
    if of_loss is None or of_size is None:
        return None
    scale = float(loss_scale(loss_spread, TYPICAL_RATE if rate is None else rate, reach))
    expected = quantile(LOSS_QUANTILES, EXPECTED) * scale / 1.5
    return CalibratedWidth(
        level, of_loss * scale, of_size * float(size_scale(size_spread, reach)), expected, origins
    )
