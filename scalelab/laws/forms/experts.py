"""Loss over dense size and number of experts, at one number of training tokens: bilinear in the logarithms.

    ln L = k - alpha ln N - beta ln M + gamma ln N ln M

L  validation loss, nats per token
N  parameters of the dense model whose feed-forwards are replaced by experts
M  experts of a feed-forward, 1 for the dense model; one expert a token is used
gamma  how the gain of experts changes with size: above 0 it shrinks, and is gone at N = exp(beta / gamma)

It has no tokens and no floor, so it allots nothing and holds only for runs of one length. The source also has
a form in which the number of experts saturates; it is not here.

Source: Clark et al. 2022, eq. 1, arXiv:2202.01169, where k, alpha, beta, gamma are d, -a, -b, c.
Not here: total and active parameters of own mixtures (model/moe/config.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalelab.laws.columns import N_EXPERTS
from scalelab.laws.formula import HUBER_DELTA, Formula
from scalelab.laws.observations import Array, Observations
from scalelab.laws.solver import Surface
from scalelab.laws.token_cost import TokenCost

NAMES = ("k", "alpha", "beta", "gamma")
SLOPES = 3.0
"""Bound of a slope in ln N or ln M at the middle of the runs, and of their product's; ends on it are reported."""


@dataclass(frozen=True)
class Experts(Formula):
    """A plane of ln L with one product, fitted by a Huber penalty on log-loss."""

    formula = "ln L = k - alpha ln N - beta ln M + gamma ln N ln M"
    source = "Clark et al. 2022, eq. 1, arXiv:2202.01169"
    names = NAMES
    columns = (N_EXPERTS,)
    uses = ("N", "M")
    published = {"k": 2.579, "alpha": 0.0854, "beta": 0.1049, "gamma": 0.00424}
    """Not the source's: fitted here to 193 of its runs (analysis/moe.md)."""

    huber_delta: float = HUBER_DELTA
    """Error of ln L beyond which the weight of a run stops growing."""

    def loss(self, params: Mapping[str, Any], **inputs: Array) -> Array:
        k, alpha, beta, gamma = (params[name] for name in NAMES)
        x, y = np.log(np.asarray(inputs["N"], float)), np.log(np.asarray(inputs["M"], float))
        return np.exp(k - alpha * x - beta * y + gamma * x * y)

    def bind(self, runs: Observations) -> "BilinearSurface":
        return BilinearSurface.of(runs, np.log(self.inputs(runs)["M"]), self.huber_delta)

    def exponents(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def optimum(self, params: Mapping[str, Any], C: Array, cost: TokenCost) -> None:
        return None

    def caveats(self, runs: Observations, params: Mapping[str, float]) -> tuple[str, ...]:
        found = []
        if runs.D.max() > 1.01 * runs.D.min():
            found.append(
                f"the law leaves D out, and the runs differ in it by a factor of {runs.D.max() / runs.D.min():.3g}"
            )
        gamma = params["gamma"]
        if gamma > 0 and (end := params["beta"] / gamma) < np.log(1e3 * runs.N.max()):
            found.append(f"experts are predicted to help no more beyond N = {np.exp(end):.2g}")
        return tuple(found)


@dataclass(frozen=True, eq=False)
class BilinearSurface(Surface):
    """ln L = t_0 + t_N x + t_M y + t_NM x y, with x and y ln N and ln M less their means.

    theta = (t_0, t_N, t_M, t_NM)
    """

    terms: Array
    """1, x, y and x y of the runs, shape (4, n)."""
    middle: tuple[float, float]
    target: Array
    delta: float
    weight: Array
    low: Array
    high: Array
    names: tuple[str, ...] = NAMES
    robust: bool = True

    @classmethod
    def of(cls, runs: Observations, ln_M: Array, delta: float) -> "BilinearSurface":
        """The surface over these runs.

        Args:
            runs: Runs that are fitted.
            ln_M: Logarithm of their experts, shape (n,).
            delta: Error of ln L beyond which the weight of a run stops growing.
        """
        target, ln_N = np.log(runs.L), np.log(runs.N)
        middle = float(ln_N.mean()), float(ln_M.mean())
        x, y = ln_N - middle[0], ln_M - middle[1]
        low = np.array([target.min() - np.log(10), *(3 * [-SLOPES])])
        high = np.array([target.max() + np.log(10), *(3 * [SLOPES])])
        terms = np.stack([np.ones_like(x), x, y, x * y])
        return cls(terms, middle, target, delta, runs.weight, low, high)

    def starts(self) -> Array:
        """Least squares, and slopes apart from it through the median of the runs, shape (9, 4)."""
        best, *_ = np.linalg.lstsq(self.terms.T, self.target, rcond=None)
        found = [best]
        for by_N in (0.5, 2.0):
            for by_M in (0.0, 0.5, 1.0, 2.0):
                slopes = best[1:] * np.array([by_N, by_M, 0.0])
                found.append(np.array([np.median(self.target - slopes @ self.terms[1:]), *slopes]))
        return np.array(found)

    def constants(self, theta: Array) -> dict[str, Array]:
        t_0, t_N, t_M, t_NM = theta.T
        m_N, m_M = self.middle
        k = t_0 - t_N * m_N - t_M * m_M + t_NM * m_N * m_M
        return {"k": k, "alpha": t_NM * m_M - t_N, "beta": t_NM * m_N - t_M, "gamma": t_NM}

    def theta(self, constants: Mapping[str, float]) -> Array:
        k, alpha, beta, gamma = (constants[name] for name in NAMES)
        m_N, m_M = self.middle
        middle = k - alpha * m_N - beta * m_M + gamma * m_N * m_M
        return np.array([middle, gamma * m_M - alpha, gamma * m_N - beta, gamma])

    def at(self, theta: Array) -> tuple[Array, Array]:
        return theta @ self.terms, np.tile(self.terms, (len(theta), 1, 1))

    def hessian(self, theta: Array, slope: Array, pull: Array) -> Array:
        return np.zeros((len(theta), 4, 4))
