"""Kaplan's joint law: two power laws and no floor, the larger price taking over.

    L(N, D) = ((N_c / N)^(alpha_N / alpha_D) + D_c / D)^alpha_D
    N*(C) ~ C^a,  D*(C) ~ C^b,  a = alpha_D / (alpha_N + alpha_D),  b = 1 - a

L  validation loss, nats per token
N  parameters, in the source without embeddings; D  training tokens; C  training FLOPs

It falls to zero with size and data, where the Chinchilla law has a floor: on sweeps too small
to see a floor the two lie on both sides of the truth. Exponents and scales belong together;
those of the laws of one variable (kaplan_single.py) are others.

Source: Kaplan et al. 2020, eq. 1.5 and table 2, arXiv:2001.08361; the optimum for C = 6 N D by
setting the derivative along D = C / f(N) to zero.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit

from scalelab.laws.base import Optimum
from scalelab.laws.formula import HUBER_DELTA, Formula
from scalelab.laws.observations import Array, Observations
from scalelab.laws.solver import Surface
from scalelab.laws.token_cost import TokenCost

NAMES = ("N_c", "D_c", "alpha_N", "alpha_D")
EXPONENTS = (0.01, 3.0)  # below, N_c is beyond floating point; ends on them are reported
WIDE = np.geomspace(0.02, 1.5, 16)  # of both exponents, for the starts


@dataclass(frozen=True)
class Kaplan(Formula):
    """The joint power law, fitted by a Huber penalty on log-loss."""

    formula = "L = ((N_c / N)^(alpha_N / alpha_D) + D_c / D)^alpha_D"
    source = "Kaplan et al. 2020, eq. 1.5, arXiv:2001.08361"
    names = NAMES
    uses = ("N", "D")
    published = {"N_c": 6.4e13, "D_c": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103}
    """Kaplan et al. 2020, table 2: the joint fit, N without embeddings."""

    huber_delta: float = HUBER_DELTA
    """Error of ln L beyond which the weight of a run stops growing."""

    def loss(self, params: Mapping[str, Any], **inputs: Array) -> Array:
        N_c, D_c, alpha_N, alpha_D = (params[k] for k in NAMES)
        small, little = np.log(N_c / inputs["N"]) * alpha_N / alpha_D, np.log(D_c / inputs["D"])
        return np.exp(alpha_D * np.logaddexp(small, little))  # in logs, or it overflows

    def bind(self, runs: Observations) -> "JointSurface":
        return JointSurface.of(runs, self.huber_delta)

    def exponents(self, params: Mapping[str, Any]) -> dict[str, Any]:
        alpha_N, alpha_D = params["alpha_N"], params["alpha_D"]
        return {"a": alpha_D / (alpha_N + alpha_D), "b": alpha_N / (alpha_N + alpha_D)}

    def optimum(self, params: Mapping[str, Any], C: Array, cost: TokenCost) -> Optimum:
        with np.errstate(all="ignore"):
            return _root(params, C, cost)

    def caveats(self, runs: Observations, params: Mapping[str, float]) -> tuple[str, ...]:
        return ()


def _root(params: Mapping[str, Any], C: Array, cost: TokenCost) -> Optimum:
    """Where a relative change in N costs as much as it saves along D = C / f(N); broadcasts.

    (alpha_N / alpha_D) (N_c / N)^(alpha_N / alpha_D) = s D_c / D with s = d ln f / d ln N.
    The logarithm of their ratio falls steadily in ln N, so there is one root; NaN where that
    is beyond what floating point holds.
    """
    N_c, D_c, alpha_N, alpha_D = (np.asarray(params[k]) for k in NAMES)
    k = alpha_N / alpha_D
    x = (np.log(k) + k * np.log(N_c) + np.log(C / 6 / D_c)) / (1 + k)
    for _ in range(60):
        N, s = np.exp(x), cost.log_slope(np.exp(x))
        balance = np.log(k / s) + k * (np.log(N_c) - x) + np.log(C / cost(N) / D_c)
        step = balance / (k + s)
        x = x + step
        if not np.any(np.abs(step) > 1e-13 * np.abs(x)):  # NaN stops too
            break
    N = np.exp(x)
    D = C / cost(N)
    L = np.exp(alpha_D * np.logaddexp(k * (np.log(N_c) - x), np.log(D_c / D)))
    return Optimum.writable(C, N, D, L)


@dataclass(frozen=True, eq=False)
class JointSurface(Surface):
    """ln L = alpha_D ln(e^u + e^v), u = (a - alpha_N x) / alpha_D, v = b / alpha_D - y.

        theta = (a, b, alpha_N, alpha_D),  a = alpha_N (ln N_c - m_N),  b = alpha_D (ln D_c - m_D)

    x and y are ln N and ln D less their means m_N and m_D: a and b are the logarithm of what the
    loss would be there from one price alone.
    """

    x: Array
    y: Array
    middle: tuple[float, float]
    target: Array
    delta: float
    weight: Array
    low: Array
    high: Array
    robust: bool = True
    names: tuple[str, ...] = NAMES

    @classmethod
    def of(cls, runs: Observations, delta: float) -> "JointSurface":
        """The surface over these runs."""
        x, y, log_loss = np.log(runs.N), np.log(runs.D), np.log(runs.L)
        middle = (float(x.mean()), float(y.mean()))
        low = [*2 * [log_loss.min() + np.log(1e-6)], *2 * [EXPONENTS[0]]]
        high = [*2 * [log_loss.max() + np.log(10)], *2 * [EXPONENTS[1]]]
        x, y = x - middle[0], y - middle[1]
        return cls(x, y, middle, log_loss, delta, runs.weight, np.array(low), np.array(high))

    def starts(self) -> Array:
        """The likeliest 16 and 16 spread out, of all exponents in WIDE x WIDE, shape (s, 4).

        Given the exponents, L^(1 / alpha_D) is linear in two amplitudes, which are solved for.
        """
        pairs = np.array([(n, d) for n in WIDE for d in WIDE])
        theta = np.array([self._projected(n, d) for n, d in pairs])
        value = self.at(theta)[0]
        misfit = np.abs(value - self.target) @ self.weight
        chosen = np.zeros(len(pairs), bool)
        chosen[8::17] = True
        chosen[np.argsort(misfit)[:16]] = True
        return theta[chosen]

    def _projected(self, alpha_N: float, alpha_D: float) -> Array:
        """The best amplitudes >= 0 for these exponents, as theta (4,); errors count as shares."""
        lines = np.stack([-self.x * alpha_N / alpha_D, -self.y]) - self.target / alpha_D
        top = lines.max(axis=1)
        columns = np.exp(lines - top[:, None]) * np.sqrt(self.weight)
        gram, right = columns @ columns.T, columns @ np.sqrt(self.weight)
        amplitudes = np.linalg.solve(gram + 1e-12 * np.diag(np.diag(gram)), right)
        if amplitudes.min() <= 0:  # one price alone, the other a tenth of it
            amplitudes = np.array([1.0, 1.0]) * right / np.diag(gram) * [0.9, 0.1]
        logs = alpha_D * (np.log(amplitudes) - top)
        return np.array([logs[0], logs[1], alpha_N, alpha_D])

    def constants(self, theta: Array) -> dict[str, Array]:
        a, b, alpha_N, alpha_D = theta.T
        N_c, D_c = np.exp(a / alpha_N + self.middle[0]), np.exp(b / alpha_D + self.middle[1])
        return {"N_c": N_c, "D_c": D_c, "alpha_N": alpha_N, "alpha_D": alpha_D}

    def theta(self, constants: Mapping[str, float]) -> Array:
        N_c, D_c, alpha_N, alpha_D = (constants[k] for k in NAMES)
        a = alpha_N * (np.log(N_c) - self.middle[0])
        b = alpha_D * (np.log(D_c) - self.middle[1])
        return np.array([a, b, alpha_N, alpha_D])

    def _prices(self, theta: Array) -> tuple[Array, Array, Array, Array]:
        """u, v, b / alpha_D, and the share of size in their sum."""
        a, b, alpha_N, alpha_D = (column[:, None] for column in theta.T)
        u, level = (a - alpha_N * self.x) / alpha_D, b / alpha_D
        v = level - self.y
        return u, v, level, expit(u - v)

    def at(self, theta: Array) -> tuple[Array, Array]:
        u, v, level, share = self._prices(theta)
        total = np.logaddexp(u, v)
        slope = np.stack([share, 1 - share, -share * self.x, total - share * u - (1 - share) * level], axis=1)
        return theta[:, 3:] * total, slope

    def hessian(self, theta: Array, slope: Array, pull: Array) -> Array:
        # alpha_D ln(...) is the perspective of a log-sum-exp, so its curvature has one direction.
        u, _, level, share = self._prices(theta)
        along = np.stack([np.ones_like(u), -np.ones_like(u), 0 * u - self.x, level - u], axis=1)
        weight = pull * share * (1 - share) / theta[:, 3:]
        return (along * weight[:, None]) @ along.transpose(0, 2, 1)
