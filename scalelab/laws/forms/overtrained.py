"""The law of overtraining: one exponent, and what departing from the best ratio costs.

    L(C, M) = E + (A M^eta + B M^-eta) C^-eta,  M = D / N,  C = 6 N D
            = E + A 6^-eta / N^(2 eta) + B 6^-eta / D^(2 eta)
    N*(C) ~ C^(1/2),  D*(C) ~ C^(1/2),  M* = (B / A)^(1 / (2 eta))

L  validation loss, nats per token
N  parameters; D  training tokens; M  tokens per parameter; C  FLOPs as 6 N D

At a fixed M the loss is one power of compute, whatever M is. With one exponent for size and
data, four constants need five runs; the price is that the powers of N* and D* are assumed.
A and B are a and b in the source; here those are the powers of N* and D* in every law.

Source: Gadre et al. 2024, eq. 4, arXiv:2403.08540, who fit by least squares in nats.

Not here: two exponents (chinchilla.py), in whose coordinates this is searched.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalelab.laws.base import Optimum
from scalelab.laws.forms import chinchilla
from scalelab.laws.forms.chinchilla import WIDE, ThreeTermSurface
from scalelab.laws.formula import HUBER_DELTA, Formula
from scalelab.laws.observations import Array, Observations
from scalelab.laws.solver import Surface
from scalelab.laws.token_cost import TokenCost

NAMES = ("E", "A", "B", "eta")
LEAST_RATIO = 20.0  # tokens per parameter; the source fits and tests from there upward
TIED = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 2], [0, 0, 0, 2]], float)
"""From the coordinates of OneExponent to those of ThreeTerms: alpha = beta = 2 eta."""


@dataclass(frozen=True)
class Overtrained(Formula):
    """A surface with one exponent, fitted by a Huber penalty on log-loss, or by least squares."""

    formula = "L = E + (A M^eta + B M^-eta) C^-eta, M = D / N, C = 6 N D"
    source = "Gadre et al. 2024, eq. 4, arXiv:2403.08540"
    names = NAMES
    uses = ("N", "D")
    published = {"E": 1.508261, "A": 141.2773, "B": 189.5155, "eta": 0.1212361}
    """Least squares on the authors' five training runs on C4, from their data; not printed."""

    objective: str = "huber"
    """"huber": of ln L, robust. "squares": of L, in nats, as in the source."""
    huber_delta: float = HUBER_DELTA
    """Error of ln L beyond which the weight of a run stops growing."""

    def loss(self, params: Mapping[str, Any], **inputs: Array) -> Array:
        E, A, B, eta = (params[k] for k in NAMES)
        M, C = inputs["D"] / inputs["N"], 6 * inputs["N"] * inputs["D"]
        return E + (A * M**eta + B * M**-eta) * C**-eta

    def bind(self, runs: Observations) -> "OneExponentSurface":
        free = ThreeTermSurface.of(runs, self.huber_delta, self.objective == "huber")
        return OneExponentSurface.of(free)

    def exponents(self, params: Mapping[str, Any]) -> dict[str, Any]:
        half = np.full_like(params["eta"], 0.5)
        return {"a": half, "b": half}

    def optimum(self, params: Mapping[str, Any], C: Array, cost: TokenCost) -> Optimum:
        return chinchilla.optimum(_two_exponents(params), C, cost)

    def caveats(self, runs: Observations, params: Mapping[str, float]) -> tuple[str, ...]:
        found = ["a = b = 1/2 in N* ~ C^a, D* ~ C^b is assumed: one exponent serves both"]
        M = runs.D / runs.N
        if M.min() < LEAST_RATIO * 0.99:
            few = int(np.sum(LEAST_RATIO * 0.99 > M))
            found.append(
                f"{few} of {len(runs)} runs have under {LEAST_RATIO:g} tokens per parameter (the "
                f"fewest {M.min():.2g}), where this law is known to fail"
            )
        with np.errstate(all="ignore"):
            best = (params["B"] / params["A"]) ** (0.5 / params["eta"])
        if best < LEAST_RATIO * 0.99:
            found.append(
                f"its optimum has {best:.3g} tokens per parameter; the law is known to hold from "
                f"{LEAST_RATIO:g} upward"
            )
        return tuple(found)

    def variants(self) -> Mapping[str, "Overtrained"]:
        return {"least squares": Overtrained("squares")} if self.objective == "huber" else {}


def _two_exponents(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the surface in the coordinates of the Chinchilla law."""
    E, A, B, eta = (params[k] for k in NAMES)
    return {"E": E, "A": A / 6**eta, "B": B / 6**eta, "alpha": 2 * eta, "beta": 2 * eta}


@dataclass(frozen=True, eq=False)
class OneExponentSurface(Surface):
    """Three terms whose exponents move together: the coordinates of ThreeTerms, and eta."""

    free: ThreeTermSurface
    target: Array
    delta: float
    robust: bool
    weight: Array
    low: Array
    high: Array
    names: tuple[str, ...] = NAMES

    @classmethod
    def of(cls, free: ThreeTermSurface) -> "OneExponentSurface":
        """The surface within a free one."""
        low, high = (np.append(ends[:3], ends[3] / 2) for ends in (free.low, free.high))
        return cls(free, free.target, free.delta, free.robust, free.weight, low, high)

    def starts(self) -> Array:
        """Every exponent in WIDE with the best E, A, B for it, shape (24, 4)."""
        best, _ = self.free.projected(WIDE, WIDE)
        terms = best[np.arange(len(WIDE)), np.arange(len(WIDE))]
        least = 1e-3 * np.median(np.exp(self.target) if self.robust else self.target)
        terms = np.maximum(terms, least)
        return np.column_stack([terms[:, 0], np.log(terms[:, 1:]), WIDE / 2])

    def constants(self, theta: Array) -> dict[str, Array]:
        two = self.free.constants(theta @ TIED.T)
        eta = theta[:, 3]
        return {"E": two["E"], "A": two["A"] * 6**eta, "B": two["B"] * 6**eta, "eta": eta}

    def theta(self, constants: Mapping[str, float]) -> Array:
        return np.append(self.free.theta(_two_exponents(constants))[:3], constants["eta"])

    def at(self, theta: Array) -> tuple[Array, Array]:
        value, slope = self.free.at(theta @ TIED.T)
        return value, TIED.T @ slope

    def hessian(self, theta: Array, slope: Array, pull: Array) -> Array:
        full = theta @ TIED.T
        return TIED.T @ self.free.hessian(full, self.free.at(full)[1], pull) @ TIED
