"""Whether the loss bends away from a surface as one input grows, and what that does to its optimum.

    ln L = ln l(N, D; theta) + g (ln x - mean ln x)^2        x = N or D

A recipe that suits one size less and less (a learning rate that is not scaled, a batch that grows too
large), text that runs out, or a law of another form shows as g beside 0. Such a bend is smooth: it goes
through every interval drawn from the scatter of runs, and moves N* the more the farther one extrapolates.

g and theta are fitted together from the surface on, by Huber's penalty of ln L that bends at CLIP robust
standard deviations of the surface's own residuals. t is g over its standard error.

Source: the test of one added variable, Cook & Weisberg 1982, Residuals and Influence in Regression,
section 2.4.

Not here: which members count (model_uncertainty.py), bends of a trend of minima (isoflop/).
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr

from scalelab.laws.base import Bend, Optimum
from scalelab.laws.observations import Array
from scalelab.laws.solver import FittedFormula

INPUTS = ("N", "D")
CLIP = 3.0
EXACT = 1e-20
"""Variance of ln L below which the surface goes through every run."""
LEAST_SPARE = 4
"""Runs beyond all constants, below which the bend is not asked for."""
GRID = 400
"""Sizes among which an optimum is looked for: 4% apart, and a parabola between them errs by 1e-4."""
MOST_STEPS = 200
BEYOND = 100.0
"""Times the largest N and below the smallest, within which an optimum is looked for."""


def bends(fit: FittedFormula) -> tuple[Bend, ...]:
    """The bends of a surface in N and in D; empty where too few runs could show them.

    Args:
        fit: Of a law with a loss of N and D alone.
    """
    runs, surface = fit.runs, fit.surface
    value, _ = surface.at(fit.theta[None])
    scale = np.log(runs.L) if surface.robust else runs.L
    if np.shape(value)[1] != len(runs) or not np.allclose(surface.target, scale):
        return ()
    miss = np.log(runs.L) - np.log(fit.loss_at(runs.N, runs.D))
    spread = 1.4826 * float(np.median(np.abs(miss - np.median(miss))))
    spare = len(np.unique(np.stack([runs.N, runs.D], axis=1), axis=0)) - len(fit.theta) - 1
    if spare < LEAST_SPARE or spread**2 <= EXACT:
        return ()
    found = []
    for symbol in INPUTS:
        x = np.log(getattr(runs, symbol))
        bent = _fitted(fit, symbol, (x - x.mean()) ** 2, CLIP * spread)
        if bent is None:
            continue
        g, error = bent.theta[-1], np.sqrt(bent.covariance[-1, -1])
        t = float(g / error)
        found.append(Bend(symbol, float(g), t, float(2 * stdtr(spare, -abs(t))), bent.optimum, bent.draws))
    return tuple(found)


def _fitted(fit: FittedFormula, symbol: str, square: Array, clip: float) -> "BentSurface | None":
    """The surface with one bend, fitted from the surface on; None where the runs do not determine it.

    Args:
        fit: The surface.
        symbol: Input that bends it.
        square: What the coefficient multiplies, shape (n,).
        clip: Error of ln L beyond which a run pulls no harder.
    """
    from scipy.optimize import least_squares  # .2 s that listing laws need not pay

    runs, surface = fit.runs, fit.surface
    weight = np.sqrt(runs.weight)

    def miss(theta: Array) -> Array:
        value = surface.at(theta[None, :-1])[0][0]
        return weight * ((value if surface.robust else np.log(value)) + theta[-1] * square - np.log(runs.L))

    def jacobian(theta: Array) -> Array:
        value, jacobian = surface.at(theta[None, :-1])
        return weight[:, None] * np.column_stack(
            [jacobian[0].T / (1 if surface.robust else value[0][:, None]), square]
        )

    ends = np.append(surface.low, -np.inf), np.append(surface.high, np.inf)
    start = np.clip(np.append(fit.theta, 0.0), *ends)
    with np.errstate(all="ignore"):
        found = least_squares(
            miss,
            start,
            jacobian,
            ends,
            x_scale="jac",
            loss="huber",
            f_scale=clip,
            max_nfev=MOST_STEPS,
            xtol=1e-10,
        )
    X = jacobian(found.x)
    size = np.linalg.norm(X, axis=0)
    if not (found.success and (size > 0).all() and np.linalg.matrix_rank(X / size) == X.shape[1]):
        return None
    variance = float(np.sum(np.clip(found.fun, -clip, clip) ** 2)) / (len(runs) - X.shape[1])
    covariance = variance * np.linalg.inv((X / size).T @ (X / size)) / np.outer(size, size)
    return None if variance <= EXACT else BentSurface(fit, symbol, found.x, covariance)


@dataclass(frozen=True, eq=False)
class BentSurface:
    """A surface times exp(g (ln x - mean ln x)^2), and how uncertain it is."""

    fit: FittedFormula
    symbol: str
    theta: Array
    """Coordinates of the surface with the bend beside them, and g last; shape (p + 1,)."""
    covariance: Array

    def optimum(self, C: float) -> Optimum | None:
        """The optimum at C FLOPs; None where there is none near the evidence, or compute raises its loss."""
        found = self._falling(self.theta[None], C)
        return found if np.isfinite(found.N).all() else None

    def draws(self, C: float, count: int) -> Optimum:
        """Optima at C FLOPs of normal draws around it, each of shape (count,); NaN without one."""
        values, axes = np.linalg.eigh(self.covariance)
        factor = axes * np.sqrt(np.maximum(values, 0))
        noise = np.random.default_rng(0).standard_normal((count, len(self.theta)))
        return self._falling(self.theta + noise @ factor.T, C)

    def _falling(self, theta: Array, C: float) -> Optimum:
        """The optimum of each row; NaN where it is no better than what the evidence already has.

        A square grows without end. Where it outweighs the surface on the way to C it has left the range
        in which it describes anything: more compute never does worse, as part of it can be left unspent. So the
        loss is below that of the optimum of the largest budget in evidence, and below the lowest measured.
        """
        found, end = self._optima(theta, C), self.fit.runs.largest_budget
        if end >= C:
            return found
        falls = np.minimum(self._optima(theta, end).L, self.fit.runs.L.min()) > found.L
        return Optimum(found.C, *(np.where(falls, value, np.nan) for value in (found.N, found.D, found.L)))

    def _optima(self, theta: Array, C: float) -> Optimum:
        """The optimum of each row; N on a grid even in ln N, and between its points by a parabola."""
        fit, runs, surface = self.fit, self.fit.runs, self.fit.surface
        reach = float(np.sqrt(max(C / runs.largest_budget, 1.0))) * BEYOND
        x = np.linspace(*np.log([runs.N.min() / BEYOND, runs.N.max() * reach]), GRID)
        N = np.exp(x)
        D = C / fit.cost(N)
        params = surface.constants(np.clip(theta[:, :-1], surface.low, surface.high))
        away = np.log(N if self.symbol == "N" else D) - np.mean(np.log(getattr(runs, self.symbol)))
        with np.errstate(all="ignore"):
            L = fit.loss_at(N, D, {k: np.asarray(v)[:, None] for k, v in params.items()})
            L = L * np.exp(theta[:, -1:] * away**2)
            valley = (L[:, 1:-1] < L[:, :-2]) & (L[:, 1:-1] <= L[:, 2:])
            # A bend of negative g pulls the loss down again far away: the valley is that of the surface.
            best = fit.optimum(C)
            middle = x.mean() if best is None else float(np.ravel(np.log(best.N))[0])
            k = np.argmin(np.where(valley, np.abs(x[1:-1] - middle), np.inf), axis=1) + 1
            row = np.arange(len(L))
            left, here, right = L[row, k - 1], L[row, k], L[row, k + 1]
            shift = (left - right) / (2 * (left - 2 * here + right))
            lowest = here - (left - right) * shift / 4
            size = np.where(valley.any(axis=1), np.exp(x[k] + shift * (x[1] - x[0])), np.nan)
            tokens = C / fit.cost(size)
        return Optimum(np.full(size.shape, C), size, tokens, np.where(np.isfinite(size), lowest, np.nan))
