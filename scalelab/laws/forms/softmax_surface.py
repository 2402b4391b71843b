"""The soft-max law bound to runs: coordinates, slope, starts, and the prior that small tables need.

    ln G = k logaddexp(x / k, z / k),   x = lA - alpha n,   z = lB - beta d,   L = E + G
    theta = (lA, ln alpha, lB, ln beta, ln k, u),   E = L_min / (1 + exp(-u))
    n = ln N - mean ln N,   d = ln D - mean ln D

L_min is the lowest loss in evidence. All derivatives of ln G are bounded: d ln G / dx = p =
1 / (1 + exp((z - x) / k)), d ln G / dz = 1 - p, d ln G / d ln k = k logaddexp(x / k, z / k) - p x -
(1 - p) z. The exponents of the loss are alpha and beta themselves, whatever k is, so that softness and
exponents do not trade off against one another.

Not here: which runs count (softmax.py), how noisy they are and the search (softmax_search.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.special import expit

from scalelab.laws.observations import Array, Observations
from scalelab.laws.solver import Surface, by_differences
from scalelab.laws.weighted_quantile import weighted_median

NAMES = ("E", "A", "B", "alpha_N", "alpha_D", "k")
LOW = np.array([-12, np.log(0.01), -12, np.log(0.01), np.log(0.04), -6.0])
HIGH = np.array([8, np.log(2.0), 8, np.log(2.0), np.log(3.0), 7.0])
FLOORS = np.array([0.05, 0.4, 0.65, 0.85, 0.95])  # E over the lowest loss, for the starts
BENDS = np.array([0.15, 0.4, 1.0])  # k, for the starts
PAIRS = np.array([(0.12, 0.12), (0.35, 0.35), (0.3, 0.6), (0.6, 0.3), (0.15, 0.4), (0.4, 0.15)])
LEAST_SHARE = 0.02  # of the reducible loss, that a start gives to either term
BELOW = 1e-6  # share by which the floor stays under the lowest loss

LIKELY = np.array([-0.7, np.log(0.3), -0.7, np.log(0.3), np.log(0.7), np.log(0.65 / 0.35)])
"""Mean of the prior; of lA and lB above ln of the median loss."""
SPREADS = np.array([1.5, 0.5, 1.5, 0.5, 0.7, 1.0])
"""Standard deviations of the prior."""


@dataclass(frozen=True, eq=False)
class SoftmaxSurface(Surface):
    """Ln L of the soft-max law around the middle of the runs."""

    x: Array
    """Ln N less its mean, shape (n,)."""
    y: Array
    """Ln D less its mean."""
    middle: tuple[float, float]
    lowest: float
    """L_min, nats per token."""
    median: float
    """Median loss, nats per token."""
    target: Array
    delta: float
    weight: Array
    low: Array
    high: Array
    robust: bool = True
    names: tuple[str, ...] = NAMES
    coordinates: ClassVar[tuple[str, ...]] = ("A", "alpha_N", "B", "alpha_D", "k", "E")
    """The constant that each coordinate stands for."""

    @classmethod
    def of(cls, runs: Observations, weight: Array, delta: float) -> "SoftmaxSurface":
        """The surface over these runs.

        Args:
            runs: Runs that count.
            weight: Of each, shape (n,).
            delta: Error of ln L beyond which the pull of a run stops growing.
        """
        x, y, loss = (np.log(np.asarray(value, float)) for value in (runs.N, runs.D, runs.L))
        middle = (float(np.average(x, weights=runs.weight)), float(np.average(y, weights=runs.weight)))
        median = float(np.exp(weighted_median(loss, runs.weight)))
        return cls(
            x - middle[0],
            y - middle[1],
            middle,
            float(np.exp(loss.min()) * (1 - BELOW)),
            median,
            loss,
            delta,
            weight,
            LOW,
            HIGH,
        )

    def prior(self, ratio_sd: float) -> tuple[Array, Array]:
        """Mean and inverse covariance of the prior, shapes (6,) and (6, 6).

        Args:
            ratio_sd: Standard deviation of ln alpha_N - ln alpha_D around 0; infinite for no such prior.
        """
        mean = LIKELY + np.log(self.median) * np.isin(np.arange(6), (0, 2))
        inverse = np.diag(SPREADS**-2.0)
        ratio = np.array([0, 1, 0, -1, 0, 0]) / ratio_sd
        return mean, inverse + np.outer(ratio, ratio)

    def starts(self) -> Array:
        """Every floor, bend and pair of exponents with the best amplitudes for it, shape (90, 6).

        Given these, (L - E)^(1 / k) is linear in both amplitudes.
        """
        share, k, pair = (
            part.ravel() for part in np.meshgrid(FLOORS, BENDS, np.arange(len(PAIRS)), indexing="ij")
        )
        alpha, beta = PAIRS[pair].T
        reducible = np.log(np.exp(self.target) - share[:, None] * self.lowest) / k[:, None]
        with np.errstate(all="ignore"):
            small = np.exp(np.clip(-(alpha / k)[:, None] * self.x - reducible, -200, 200))
            little = np.exp(np.clip(-(beta / k)[:, None] * self.y - reducible, -200, 200))
        terms = np.stack([small, little], axis=1)
        scale = terms.mean(axis=2)
        terms = terms / scale[:, :, None]
        gram = (terms * self.weight) @ terms.transpose(0, 2, 1) + 1e-9 * self.weight.sum() * np.eye(2)
        best = np.linalg.solve(gram, terms @ self.weight[:, None])[..., 0]
        amplitude = np.log(np.maximum(best, LEAST_SHARE) / scale) * k[:, None]
        return np.column_stack(
            [
                amplitude[:, 0],
                np.log(alpha),
                amplitude[:, 1],
                np.log(beta),
                np.log(k),
                np.log(share / (1 - share)),
            ]
        )

    def constants(self, theta: Array) -> dict[str, Array]:
        lA, alpha, lB, beta, k, u = theta.T
        alpha, beta = np.exp(alpha), np.exp(beta)
        return {
            "E": self.lowest * expit(u),
            "A": np.exp(lA + alpha * self.middle[0]),
            "B": np.exp(lB + beta * self.middle[1]),
            "alpha_N": alpha,
            "alpha_D": beta,
            "k": np.exp(k),
        }

    def theta(self, constants: Mapping[str, float]) -> Array:
        E, A, B, alpha, beta, k = (constants[name] for name in NAMES)
        m, n = self.middle
        return np.array(
            [
                np.log(A) - alpha * m,
                np.log(alpha),
                np.log(B) - beta * n,
                np.log(beta),
                np.log(k),
                np.log(E) - np.log(self.lowest - E),
            ]
        )

    def at(self, theta: Array) -> tuple[Array, Array]:
        lA, alpha, lB, beta, k, u = (column[:, None] for column in theta.T)
        alpha, beta, k, share = np.exp(alpha), np.exp(beta), np.exp(k), expit(u)
        x, z = lA - alpha * self.x, lB - beta * self.y
        p, soft = soft_maximum(x, z, k)
        E, G = self.lowest * share, np.exp(np.clip(soft, -50, 50))
        L = E + G
        g = G / L
        slope = np.empty((len(theta), 6, self.x.size))
        np.multiply(g, p, out=slope[:, 0])
        np.subtract(g, slope[:, 0], out=slope[:, 2])
        slope[:, 1] = -slope[:, 0] * alpha * self.x
        slope[:, 3] = -slope[:, 2] * beta * self.y
        slope[:, 4] = g * (soft - z - p * (x - z))
        slope[:, 5] = E * (1 - share) / L
        return np.log(L), slope

    def hessian(self, theta: Array, slope: Array, pull: Array) -> Array:
        return by_differences(self, theta, pull)


def soft_maximum(x: Array, z: Array, k: Array) -> tuple[Array, Array]:
    """The share of x in the soft maximum of x and z, and k logaddexp(x / k, z / k); broadcast."""
    apart = (x - z) / k
    return expit(apart), np.maximum(x, z) + k * np.log1p(np.exp(-np.abs(apart)))
