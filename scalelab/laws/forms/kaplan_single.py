"""Kaplan's laws of one variable: the loss when everything else is abundant.

    L(N) = (N_c / N)^alpha_N      data and steps without end
    L(D) = (D_c / D)^alpha_D      size without end, stopped before it overfits

L  validation loss, nats per token
N  parameters, in the source without embeddings; D  training tokens

They allot nothing: what one variable costs the other does not appear. On runs where the other
is not abundant the constants are wrong, and the fit says so.

Source: Kaplan et al. 2020, eqs. 1.1 and 1.2, arXiv:2001.08361.

Not here: both variables together (kaplan.py), whose constants are others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalelab.laws.formula import HUBER_DELTA, Formula
from scalelab.laws.observations import Array, Observations
from scalelab.laws.solver import Surface

EXPONENTS = (0.01, 3.0)  # below, N_c is beyond floating point; ends on them are reported
ABUNDANT = 0.01  # share of the loss that an abundant input may still move


@dataclass(frozen=True)
class KaplanN(Formula):
    """Loss of size alone, fitted by a Huber penalty on log-loss."""

    formula = "L = (N_c / N)^alpha_N"
    source = "Kaplan et al. 2020, eq. 1.1, arXiv:2001.08361"
    names = ("N_c", "alpha_N")
    uses = ("N",)
    published = {"N_c": 8.8e13, "alpha_N": 0.076}

    huber_delta: float = HUBER_DELTA
    """Error of ln L beyond which the weight of a run stops growing."""

    def loss(self, params: Mapping[str, Any], **inputs: Array) -> Array:
        return (params["N_c"] / inputs["N"]) ** params["alpha_N"]

    def bind(self, runs: Observations) -> "LineSurface":
        return LineSurface.of(np.log(runs.N), runs, self.huber_delta, self.names)

    def caveats(self, runs: Observations, params: Mapping[str, float]) -> tuple[str, ...]:
        return _caveats("N", runs.N, "D", runs.D, runs.L)


@dataclass(frozen=True)
class KaplanD(Formula):
    """Loss of data alone, fitted by a Huber penalty on log-loss."""

    formula = "L = (D_c / D)^alpha_D"
    source = "Kaplan et al. 2020, eq. 1.2, arXiv:2001.08361"
    names = ("D_c", "alpha_D")
    uses = ("D",)
    published = {"D_c": 5.4e13, "alpha_D": 0.095}

    huber_delta: float = HUBER_DELTA
    """Error of ln L beyond which the weight of a run stops growing."""

    def loss(self, params: Mapping[str, Any], **inputs: Array) -> Array:
        return (params["D_c"] / inputs["D"]) ** params["alpha_D"]

    def bind(self, runs: Observations) -> "LineSurface":
        return LineSurface.of(np.log(runs.D), runs, self.huber_delta, self.names)

    def caveats(self, runs: Observations, params: Mapping[str, float]) -> tuple[str, ...]:
        return _caveats("D", runs.D, "N", runs.N, runs.L)


def _caveats(symbol: str, own: Array, other: str, values: Array, L: Array) -> tuple[str, ...]:
    """What the runs say against an input that the law takes for abundant."""
    widest = compared = 0.0
    for value in np.unique(own):
        mine = own == value
        if len(np.unique(values[mine])) > 1:
            compared += 1
            widest = max(widest, float(L[mine].max() / L[mine].min() - 1))
    if compared and widest > ABUNDANT:
        return (
            f"{other} is not abundant: at equal {symbol} the loss spreads by {widest:.1%}, and "
            f"the law leaves {other} out",
        )
    if not compared and len(np.unique(values)) > 1:
        return (
            f"the law leaves {other} out, and no two runs of equal {symbol} differ in {other}: "
            "whether it is abundant cannot be seen",
        )
    return ()


@dataclass(frozen=True, eq=False)
class LineSurface(Surface):
    """ln L = a - alpha x, with x the logarithm of the input less its mean m.

    theta = (a, alpha),  scale = exp(a / alpha + m)
    """

    x: Array
    middle: float
    target: Array
    delta: float
    weight: Array
    low: Array
    high: Array
    names: tuple[str, ...]
    robust: bool = True

    @classmethod
    def of(cls, x: Array, runs: Observations, delta: float, names: tuple[str, ...]) -> "LineSurface":
        """The line through these runs.

        Args:
            x: Logarithm of the input, shape (n,).
            runs: Runs that are fitted.
            delta: Error of ln L beyond which the weight of a run stops growing.
            names: Names of the constants.
        """
        target, middle = np.log(runs.L), float(x.mean())
        low = np.array([target.min() - np.log(10), EXPONENTS[0]])
        high = np.array([target.max() + np.log(10), EXPONENTS[1]])
        return cls(x - middle, middle, target, delta, runs.weight, low, high, names)

    def starts(self) -> Array:
        """Slopes wide apart, each through the median of the runs, shape (16, 2)."""
        alpha = np.geomspace(0.01, 1.5, 16)
        a = np.median(self.target + np.outer(alpha, self.x), axis=1)
        return np.column_stack([a, alpha])

    def constants(self, theta: Array) -> dict[str, Array]:
        a, alpha = theta.T
        return dict(zip(self.names, (np.exp(a / alpha + self.middle), alpha), strict=True))

    def theta(self, constants: Mapping[str, float]) -> Array:
        scale, alpha = (constants[k] for k in self.names)
        return np.array([alpha * (np.log(scale) - self.middle), alpha])

    def at(self, theta: Array) -> tuple[Array, Array]:
        a, alpha = (column[:, None] for column in theta.T)
        value = a - alpha * self.x
        return value, np.stack([np.ones_like(value), 0 * value - self.x], axis=1)

    def hessian(self, theta: Array, slope: Array, pull: Array) -> Array:
        return np.zeros((len(theta), 2, 2))
