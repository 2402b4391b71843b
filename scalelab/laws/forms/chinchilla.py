"""The Chinchilla law: a floor, a price for being small, a price for seeing little.

    L(N, D) = E + A / N^alpha + B / D^beta
    N*(C) = G (C/6)^a,  D*(C) = (C/6)^b / G,  a = beta / (alpha + beta),  b = alpha / (alpha + beta)
    G = (alpha A / (beta B))^(1 / (alpha + beta))

L  validation loss, nats per token
N  parameters; D  training tokens, each counted once; C  training FLOPs

The optimum above holds for C = 6 N D. Where runs spent otherwise, it is found on their own
relation of FLOPs per token to N (token_cost.py), and the fit says so.

Source: Hoffmann et al. 2022, Approach 3 and eq. 4, arXiv:2203.15556. Their published constants
came from an optimiser that stopped early (Besiroglu et al. 2024, arXiv:2404.10102): solver.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from scalelab.laws.base import Optimum
from scalelab.laws.formula import HUBER_DELTA, Formula
from scalelab.laws.observations import Array, Observations
from scalelab.laws.solver import Surface
from scalelab.laws.token_cost import TokenCost

NAMES = ("E", "A", "B", "alpha", "beta")
EXPONENTS = (0.01, 3.0)  # wide enough for any shape worth the name; ends on them are reported
WIDE = np.geomspace(0.03, 2.5, 24)  # of alpha and of beta, for the starts


@dataclass(frozen=True)
class Chinchilla(Formula):
    """Three-term power law, fitted by a Huber penalty on log-loss, or by least squares."""

    formula = "L = E + A / N^alpha + B / D^beta"
    source = "Hoffmann et al. 2022, Approach 3, arXiv:2203.15556"
    names = NAMES
    uses = ("N", "D")
    published = {"E": 1.8172181, "A": 477.82552, "B": 2143.4173, "alpha": 0.34731050, "beta": 0.36717238}
    """The optimum on the 240 points of Besiroglu et al. 2024, arXiv:2404.10102."""

    objective: str = "huber"
    """"huber": of ln L, robust. "squares": of L, in nats, every run at its full pull."""
    huber_delta: float = HUBER_DELTA
    """Error of ln L beyond which the weight of a run stops growing."""

    def loss(self, params: Mapping[str, Any], **inputs: Array) -> Array:
        E, A, B, alpha, beta = (params[k] for k in NAMES)
        return E + A / inputs["N"] ** alpha + B / inputs["D"] ** beta

    def bind(self, runs: Observations) -> "ThreeTermSurface":
        return ThreeTermSurface.of(runs, self.huber_delta, self.objective == "huber")

    def exponents(self, params: Mapping[str, Any]) -> dict[str, Any]:
        alpha, beta = params["alpha"], params["beta"]
        return {"a": beta / (alpha + beta), "b": alpha / (alpha + beta)}

    def optimum(self, params: Mapping[str, Any], C: Array, cost: TokenCost) -> Optimum:
        return optimum(params, C, cost)

    def caveats(self, runs: Observations, params: Mapping[str, float]) -> tuple[str, ...]:
        return ()

    def variants(self) -> Mapping[str, "Chinchilla"]:
        return {"least squares": Chinchilla("squares")} if self.objective == "huber" else {}


def optimum(params: Mapping[str, Any], C: Array, cost: TokenCost) -> Optimum:
    """The compute-optimal point of surfaces with these constants; broadcasts.

    Along a budget D = C / f(N), the optimum is where the two prices of a relative change in N
    balance: alpha A / N^alpha = s beta B / D^beta, with s = d ln f / d ln N. For f = 6 N that is
    Hoffmann et al. eq. 4, from which Newton's method starts; the balance falls steadily in
    ln N, so it has one root. Where that is beyond what floating point holds (a price that hardly
    depends on size), every answer is NaN.
    """
    with np.errstate(all="ignore"):
        return _root(params, C, cost)


def _root(params: Mapping[str, Any], C: Array, cost: TokenCost) -> Optimum:
    E, A, B, alpha, beta = (np.asarray(params[k]) for k in NAMES)
    ln_G = np.log(alpha * A / (beta * B)) / (alpha + beta)
    x = ln_G + beta / (alpha + beta) * np.log(C / 6)
    for _ in range(60):
        N, s = np.exp(x), cost.log_slope(np.exp(x))
        balance = np.log(alpha * A / (beta * B * s)) - alpha * x + beta * np.log(C / cost(N))
        step = balance / (alpha + beta * s)
        x = x + step
        if not np.any(np.abs(step) > 1e-13 * np.abs(x)):  # NaN stops too
            break
    N = np.exp(x)
    D = C / cost(N)
    L = E + A / N**alpha + B / D**beta
    return Optimum.writable(C, N, D, L)


@dataclass(frozen=True, eq=False)
class ThreeTermSurface(Surface):
    """A sum of three exponentials of lines, or its logarithm, around the middle of the runs.

        theta = (E, ln A - alpha m_N, ln B - beta m_D, alpha, beta)

    with m_N, m_D the mean ln N and ln D: there alpha and ln A are nearly independent, where at
    N = 1 their correlation is .999 and Newton's method would lose half its digits. E and not
    its logarithm: where the runs show no floor, ln E has no end to run to.
    """

    x: Array
    y: Array
    middle: tuple[float, float]
    target: Array
    delta: float
    robust: bool
    """ln L by Huber; otherwise L by squares."""
    weight: Array
    low: Array
    high: Array
    names: tuple[str, ...] = NAMES

    @classmethod
    def of(cls, runs: Observations, delta: float, robust: bool) -> "ThreeTermSurface":
        """The surface over these runs."""
        x, y, log_loss = np.log(runs.N), np.log(runs.D), np.log(runs.L)
        least, most = log_loss.min(), log_loss.max()
        low = [1e-4 * np.exp(least), *2 * [least + np.log(1e-6)], *2 * [EXPONENTS[0]]]
        high = [np.exp(least), *2 * [most + np.log(10)], *2 * [EXPONENTS[1]]]
        middle = (float(x.mean()), float(y.mean()))
        return cls(
            x - middle[0],
            y - middle[1],
            middle,
            log_loss if robust else runs.L,
            delta,
            robust,
            runs.weight,
            np.array(low),
            np.array(high),
        )

    def starts(self) -> Array:
        """The likeliest 32 and 30 spread out, of all exponents in WIDE x WIDE, shape (62, 5).

        Given the exponents, the law is linear in E, A, B, so each pair starts from the best of
        these: variable projection, Golub & Pereyra 1973; on scaling laws, Czech et al. 2026,
        arXiv:2603.22339.
        """
        amplitudes, misfit = self.projected(WIDE, WIDE)
        spread = np.ix_(range(2, len(WIDE), 4), range(2, len(WIDE), 5))
        chosen = np.zeros(misfit.shape, bool)
        chosen[spread] = True
        chosen.flat[np.argsort(misfit, axis=None)[:32]] = True
        i, j = np.nonzero(chosen)
        terms = np.maximum(amplitudes[i, j], 1e-3 * np.median(self._loss))
        return np.column_stack([terms[:, 0], np.log(terms[:, 1:]), WIDE[i], WIDE[j]])

    def projected(self, alphas: Array, betas: Array) -> tuple[Array, Array]:
        """Best E, A, B >= 0 (around the middle) for each alpha and beta, and their misfit.

        Errors count as shares of the loss. Shapes (a, b, 3) and (a, b).
        """
        w = self.weight / self._loss**2
        u, v = np.exp(-np.outer(alphas, self.x)), np.exp(-np.outer(betas, self.y))
        gram = np.empty((len(alphas), len(betas), 3, 3))
        gram[..., 0, 0] = w.sum()
        gram[..., 0, 1] = gram[..., 1, 0] = (u @ w)[:, None]
        gram[..., 0, 2] = gram[..., 2, 0] = v @ w
        gram[..., 1, 1] = (u**2 @ w)[:, None]
        gram[..., 2, 2] = v**2 @ w
        gram[..., 1, 2] = gram[..., 2, 1] = (u * w) @ v.T
        right = np.empty((len(alphas), len(betas), 3))
        right[..., 0] = w @ self._loss
        right[..., 1] = (u @ (w * self._loss))[:, None]
        right[..., 2] = v @ (w * self._loss)
        best, misfit = np.zeros(right.shape), np.full(right.shape[:2], np.inf)
        for kept in (c for k in (3, 2, 1) for c in combinations(range(3), k)):
            found = np.zeros(right.shape)
            part, ridge = gram[..., kept, :][..., kept], 1e-12 * np.eye(len(kept))
            scale = np.sqrt(np.einsum("...ii->...i", part))
            part = part / (scale[..., None] * scale[..., None, :]) + ridge
            solved = np.linalg.solve(part, (right[..., kept] / scale)[..., None])[..., 0] / scale
            found[..., kept] = solved
            miss = -2 * np.sum(found * right, axis=-1) + np.einsum("...i,...ij,...j->...", found, gram, found)
            better = (miss < misfit) & (found >= 0).all(axis=-1)
            best[better], misfit[better] = found[better], miss[better]
        return best, misfit + float(np.sum(self.weight))

    @property
    def _loss(self) -> Array:
        return np.exp(self.target) if self.robust else self.target

    def constants(self, theta: Array) -> dict[str, Array]:
        e, a, b, alpha, beta = theta.T
        A, B = np.exp(a + alpha * self.middle[0]), np.exp(b + beta * self.middle[1])
        return {"E": e, "A": A, "B": B, "alpha": alpha, "beta": beta}

    def theta(self, constants: Mapping[str, float]) -> Array:
        E, A, B, alpha, beta = (constants[k] for k in NAMES)
        m, k = self.middle
        return np.array([E, np.log(A) - alpha * m, np.log(B) - beta * k, alpha, beta])

    def at(self, theta: Array) -> tuple[Array, Array]:
        e, a, b, alpha, beta = (column[:, None] for column in theta.T)
        slope = np.empty((len(theta), 5, len(self.x)))
        small, little = slope[:, 1], slope[:, 2]
        np.exp(a - alpha * self.x, out=small)
        np.exp(b - beta * self.y, out=little)
        value = e + small + little
        slope[:, 0] = 1
        if self.robust:
            slope[:, :3] /= value[:, None]
            value = np.log(value)
        np.multiply(small, -self.x, out=slope[:, 3])
        np.multiply(little, -self.y, out=slope[:, 4])
        return value, slope

    def hessian(self, theta: Array, slope: Array, pull: Array) -> Array:
        del theta
        r = len(slope)
        bent = np.zeros((r, 5, 5))
        if self.robust:
            bent -= (slope * pull[:, None]) @ slope.transpose(0, 2, 1)
        for line, i, j in ((self.x, 1, 3), (self.y, 2, 4)):
            share = slope[:, i] * pull
            first = share @ line
            bent[:, i, i] += share.sum(1)
            bent[:, i, j] -= first
            bent[:, j, i] -= first
            bent[:, j, j] += share @ line**2
        return bent
