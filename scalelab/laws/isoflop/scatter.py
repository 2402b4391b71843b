"""Minima that lie farther from their trends than the noise of single runs explains.

    y_i = trend(C_i) + e_i + b_i      y: ln N* or ln L* of budget i
    e_i  noise of the minimum, from the residuals around its parabola
    b_i  what the runs of one budget share: a machine, a data order, a rate that suits one size

A parabola cannot see b: it lifts or moves the whole valley. Its variance is what the residuals of the
minima around their trend have beyond the variance of e, and a replicate draws it with its uncertainty:
s^2 k / chi2_k - var e, at least 0, where s^2 is the mean square of the residuals and k their spare points.

Source: random effects in a regression of estimates with known errors, DerSimonian & Laird 1986,
doi:10.1016/0197-2456(86)90046-2; the chi-square draw as in law.py.

Not here: a trend that bends (trend.py), residuals of a surface (uncertainty/resampling_units.py).
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import fdtrc  # scipy.stats takes .4 s to import

from scalelab.laws.isoflop.trend import Trends
from scalelab.laws.observations import Array

UNLIKELY = 0.1
"""Level of the test for scatter beyond noise. Not stricter: a component that is there and is not
added makes the interval too narrow; one that is added by chance widens one sweep in ten."""


@dataclass(frozen=True, eq=False)
class BudgetComponent:
    """One quantity's scatter between budgets."""

    ratio: float
    """Mean square of the residuals over what the noise explains; 1 where it cannot be seen."""
    square: float
    """Mean square of the residuals, of the logarithm."""
    noise: float
    """What the noise explains of it."""
    spare: int
    """Minima beyond the constants of the trend."""
    likely: float
    """Probability of a ratio as large by chance."""

    @classmethod
    def of(cls, residual: Array, X: Array, variance: Array, noise_spare: int) -> "BudgetComponent":
        """Compare residuals around a trend with the noise of the points.

        Args:
            residual: ln of the points minus the trend, shape (m,).
            X: Derivatives of the trend by its constants, shape (m, p).
            variance: Of the noise of ln of each point, shape (m,).
            noise_spare: Degrees of freedom of that variance.
        """
        m, p = X.shape
        Q, _ = np.linalg.qr(X)
        explained = float(np.sum((1 - np.sum(Q**2, axis=1)) * variance))
        seen = float(np.sum(residual**2))
        if m <= p or not np.isfinite(explained) or explained <= 0 or seen <= 1e-12:
            return cls(1.0, 0.0, 0.0, max(m - p, 0), 1.0)
        ratio = seen / explained
        likely = float(fdtrc(m - p, max(noise_spare, 1), ratio))
        return cls(ratio, seen / (m - p), explained / (m - p), m - p, likely)

    def draw(self, count: int, m: int, rng: np.random.Generator) -> Array:
        """What to add to ln of m points in every replicate, shape (count, m)."""
        if self.likely >= UNLIKELY:
            return np.zeros((count, m))
        total = self.square * self.spare / rng.chisquare(self.spare, size=(count, 1))
        return np.sqrt(np.maximum(total - self.noise, 0)) * rng.standard_normal((count, m))


def _log_variance(drawn: Array) -> Array:
    """Return the variance of the logarithm of each column; NaN where every replicate lost the minimum."""
    with np.errstate(all="ignore"):
        logs = np.log(drawn)
        kept = np.isfinite(logs)
        mean = np.sum(np.where(kept, logs, 0), axis=0) / kept.sum(axis=0)
        return np.sum(np.where(kept, (logs - mean) ** 2, 0), axis=0) / kept.sum(axis=0)


@dataclass(frozen=True, eq=False)
class MinimaScatter:
    """The components of N* and of L*."""

    N: BudgetComponent
    L: BudgetComponent

    @classmethod
    def of(
        cls, trends: Trends, spent: Array, best: Array, drawn: tuple[Array, Array], noise_spare: int
    ) -> "MinimaScatter":
        """Return the components of the minima around their trends.

        Args:
            trends: Through the minima, one replicate.
            spent: FLOPs of the minima, shape (m,).
            best: L* of the minima, shape (m,).
            drawn: N* and L* of the minima in every replicate of noise, each (r, m); NaN where lost.
            noise_spare: Degrees of freedom of the noise.
        """
        u = np.log(spent / trends.N.C0)
        line = np.stack([np.ones_like(u), u], axis=1)
        var_N, var_L = (_log_variance(y) for y in drawn)
        if trends.form == "floor":
            E, K, gamma = (float(v[0]) for v in (trends.floor.E, trends.floor.K, trends.floor.gamma))
            v = np.exp(-gamma * u)
            expected = E + K * v
            X = np.stack([np.ones_like(u), v, -K * u * v], axis=1) / expected[:, None]
            residual = np.log(best / expected)
        else:
            X, residual = line, trends.L.residual[0]
        return cls(
            BudgetComponent.of(trends.N.residual[0], line, var_N, noise_spare),
            BudgetComponent.of(residual, X, var_L, noise_spare),
        )

    def move(
        self, drawn: tuple[Array, Array, Array, Array], rng: np.random.Generator
    ) -> tuple[Array, Array, Array, Array]:
        """Return C, N*, D*, L* of every replicate with both components; N D stays what C buys.

        Args:
            drawn: C, N*, D*, L*, each of shape (r, m).
            rng: Source of the draws.
        """
        C, N, D, L = drawn
        moved = np.exp(self.N.draw(*N.shape, rng))
        return C, N * moved, D / moved, L * np.exp(self.L.draw(*L.shape, rng))
