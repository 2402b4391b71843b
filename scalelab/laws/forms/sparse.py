"""Loss over active parameters, total parameters and tokens, for mixtures of experts of one's own.

    L = E + A / (N^alpha (T / N)^sigma) + B / D^beta

L  validation loss, nats per token
N  active parameters: those that a token uses
T  total parameters, experts that a token does not use included; T = N for a dense model
D  training tokens
sigma / alpha  share of the idle parameters' growth, in logarithms, that is worth as much as active ones: 0 where they
   are worth nothing, 1 where only T matters

With T / N fixed it is the Chinchilla law in N and D, so the runs need at least two ratios. No optimum is given:
FLOPs do not bound the idle parameters, memory does, which no run states.

Source: none that was read; the Chinchilla law of Hoffmann et al. 2022, arXiv:2203.15556, with the plainest term
for idle parameters. Joint laws with more constants: Ludziejewski et al. 2025, arXiv:2502.05172; Krajewski et al. 2024,
arXiv:2402.07871, neither of which is this one.
Not here: dense size and number of experts at one length (experts.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalelab.errors import FitError
from scalelab.laws.columns import TOTAL_PARAMS
from scalelab.laws.forms.chinchilla import Chinchilla, ThreeTermSurface
from scalelab.laws.formula import HUBER_DELTA, Formula
from scalelab.laws.observations import Array, Observations
from scalelab.laws.solver import Surface

NAMES = ("E", "A", "B", "alpha", "beta", "sigma")
LEAST_RATIO = 1.5
"""Largest T / N over the smallest, below which sigma is not to be seen."""
WORTH = (0.0, 0.3, 0.8)
"""sigma / alpha of the starts."""
SIGMA = (-1.0, 2.0)


@dataclass(frozen=True)
class Sparse(Formula):
    """A size term of active and idle parameters and a data term, fitted by a Huber penalty on log-loss."""

    formula = "L = E + A / (N^alpha (T / N)^sigma) + B / D^beta"
    source = "Hoffmann et al. 2022, arXiv:2203.15556, with a term for idle parameters"
    names = NAMES
    columns = (TOTAL_PARAMS,)
    signed = frozenset({"sigma"})
    uses = ("N", "D", "T")
    published = {**Chinchilla.published, "sigma": 0.0}
    """Those of the Chinchilla law, to which the law falls back where idle parameters are of no use: no fit of this law
    has been published."""

    huber_delta: float = HUBER_DELTA
    """Error of ln L beyond which the weight of a run stops growing."""

    def loss(self, params: Mapping[str, Any], **inputs: Array) -> Array:
        E, A, B, alpha, beta, sigma = (params[name] for name in NAMES)
        N, D, T = (np.asarray(inputs[name], float) for name in self.uses)
        return E + A / (N**alpha * (T / N) ** sigma) + B / D**beta

    def bind(self, runs: Observations) -> "IdleTermSurface":
        ratio = self.inputs(runs)["T"] / runs.N
        if ratio.min() < 1 - 1e-9:
            raise FitError(
                f"{int(np.sum(ratio < 1 - 1e-9))} runs have fewer parameters in all than a token uses",
                where=f"n_params_total over n_params from {ratio.min():.3g} to {ratio.max():.3g}",
                fix="give the active parameters as N: --param-count active",
            )
        if ratio.max() < LEAST_RATIO * ratio.min():
            raise FitError(
                f"total over active parameters spans only {ratio.max() / ratio.min():.2f}x, too little to see a slope",
                where=f"n_params_total over n_params from {ratio.min():.3g} to {ratio.max():.3g}",
                fix="add runs of another number of experts, or dense ones; or fit chinchilla",
            )
        return IdleTermSurface.of(runs, np.log(ratio), self.huber_delta)

    def caveats(self, runs: Observations, params: Mapping[str, float]) -> tuple[str, ...]:
        if params["sigma"] <= 0:
            return (f"idle parameters are fitted to be of no use: sigma = {params['sigma']:.2g}",)
        return ()


@dataclass(frozen=True, eq=False)
class IdleTermSurface(Surface):
    """ln of a sum of three exponentials of lines, around the middle of the runs.

    theta = (E, ln A - alpha m_N - sigma m_r, ln B - beta m_D, alpha, beta, sigma), r = ln(T / N)
    """

    free: ThreeTermSurface
    """The Chinchilla surface of the same runs, for ends and starts."""
    z: Array
    """ln(T / N) less its mean, shape (n,)."""
    middle: float
    target: Array
    delta: float
    weight: Array
    low: Array
    high: Array
    robust: bool = True
    names: tuple[str, ...] = NAMES

    @classmethod
    def of(cls, runs: Observations, ratio: Array, delta: float) -> "IdleTermSurface":
        """The surface over these runs.

        Args:
            runs: Runs that are fitted.
            ratio: ln(T / N) of each, shape (n,).
            delta: Error of ln L beyond which the weight of a run stops growing.
        """
        free = ThreeTermSurface.of(runs, delta, robust=True)
        low, high = np.append(free.low, SIGMA[0]), np.append(free.high, SIGMA[1])
        middle = float(ratio.mean())
        return cls(free, ratio - middle, middle, free.target, delta, runs.weight, low, high)

    def starts(self) -> Array:
        """The starts of the Chinchilla surface at three values of sigma / alpha, shape (93, 6)."""
        found = self.free.starts()[::2]
        return np.concatenate([np.column_stack([found, worth * found[:, 3]]) for worth in WORTH])

    def constants(self, theta: Array) -> dict[str, Array]:
        three, sigma = self.free.constants(theta[:, :5]), theta[:, 5]
        return three | {"A": three["A"] * np.exp(sigma * self.middle), "sigma": sigma}

    def theta(self, constants: Mapping[str, float]) -> Array:
        sigma = constants["sigma"]
        three = {**constants, "A": constants["A"] * np.exp(-sigma * self.middle)}
        return np.append(self.free.theta(three), sigma)

    def at(self, theta: Array) -> tuple[Array, Array]:
        e, a, b, alpha, beta, sigma = (column[:, None] for column in theta.T)
        small = np.exp(a - alpha * self.free.x - sigma * self.z)
        little = np.exp(b - beta * self.free.y)
        value = e + small + little
        by = (1, small, little, -self.free.x * small, -self.free.y * little, -self.z * small)
        return np.log(value), np.stack([np.broadcast_to(each / value, value.shape) for each in by], axis=1)

    def hessian(self, theta: Array, slope: Array, pull: Array) -> Array:
        del theta
        found = -(slope * pull[:, None]) @ slope.transpose(0, 2, 1)
        for at, term in (((1, 3, 5), 1), ((2, 4), 2)):
            one = np.ones_like(self.z)
            lines = (one, -self.free.x, -self.z) if term == 1 else (one, -self.free.y)
            share = slope[:, term] * pull
            for i, first in zip(at, lines, strict=True):
                for j, second in zip(at, lines, strict=True):
                    found[:, i, j] += share @ (first * second)
        return found
