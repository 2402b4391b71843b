"""The search for a surface's constants: many starts, one robust objective, no stop unseen.

    F(theta) = sum_i w_i rho(m_i),   m_i = (ln L(theta; N_i, D_i) - ln L_i) / delta
    rho(m) = m^2 / 2 for |m| <= 1, |m| - 1/2 beyond

Misses are counted in units of delta, so F is of order 1 to 1000 and no tolerance is blind
to it; delta^2 F is the published objective. Every start and every bootstrap replicate
(weights w) takes damped Newton steps at once: an exact Hessian, a damping of its own for
each, a step only where F falls.

theta  free parameters, shape (r, p); w weights, shape (r, n); pull = d rho / d m

Source: objective, Hoffmann et al. 2022, section 3.3, arXiv:2203.15556. The fault that this
guards against (a mean in place of the sum, default tolerances, one start): Besiroglu et al.
2024, arXiv:2404.10102. Damping: Marquardt 1963, scaled by the curvature's diagonal.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from scalelab.laws.base import Array, Solver

MAX_STEPS = 300
AT_REST = 1e-7  # gradient_norm below which a search is at an optimum
SAME = 1e-4  # share of the best objective within which two ends agree


class Surface(Protocol):
    """A log-loss with two derivatives. `theta` has shape (r, p); runs are fixed inside."""

    names: tuple[str, ...]
    low: Array
    high: Array
    log_loss: Array
    """ln L of the runs, shape (n,)."""
    delta: float

    def value(self, theta: Array) -> Array:
        """Predicted ln L, shape (r, n)."""

    def slope(self, theta: Array) -> Array:
        """Its derivative, shape (r, p, n)."""

    def bend(self, theta: Array, pull: Array) -> Array:
        """Sum over runs of pull times the second derivative, shape (r, p, p)."""


@dataclass(frozen=True, eq=False)
class Ends:
    """Where searches ended, one per row."""

    theta: Array
    objective: Array
    """F, scaled: multiply by delta^2 for the published objective."""
    gradient_norm: Array

    @property
    def at_rest(self) -> Array:
        """Which of them stopped at an optimum."""
        return self.gradient_norm <= AT_REST


def look(surface: Surface, theta: Array, weights: Array) -> Ends:
    """The objective and the remaining pull at theta, whoever found it."""
    miss = (surface.value(theta) - surface.log_loss) / surface.delta
    pull = np.clip(miss, -1, 1)
    slope = surface.slope(theta)
    gradient = np.einsum("rpn,rn->rp", slope, weights * pull)
    gradient[_leaning(surface, theta, gradient)] = 0
    # As a share: |J' w pull| against |J| |w pull|. The small floor keeps a perfect fit at 0/0
    # from looking restless; it is 1e-6 delta, far below what a loss is known to.
    size = np.sqrt(np.einsum("rpn,rpn->rp", slope, slope))
    force = np.sqrt(np.sum((weights * pull) ** 2, axis=1)) + 1e-6 * np.sqrt(miss.shape[1])
    left = np.max(np.abs(gradient) / (size * force[:, None] + 1e-300), axis=1)
    return Ends(theta, np.sum(weights * _rho(miss), axis=1), left)


def search(surface: Surface, starts: Array, weights: Array | None = None) -> Ends:
    """Damped Newton from every start (r, p); weights (r, n) or None for one each."""
    n = surface.log_loss.size
    weights = np.ones((len(starts), n)) if weights is None else weights
    theta = np.clip(starts, surface.low, surface.high)
    objective = _objective(surface, theta, weights)
    damping = np.full(len(theta), 1e-2)
    busy = np.arange(len(theta))
    for _ in range(MAX_STEPS):
        step, left = _steps(surface, theta[busy], weights[busy], damping[busy])
        moving = (left > AT_REST / 10) & (damping[busy] < 1e12)
        busy, step = busy[moving], step[moving]
        if not busy.size:
            break
        trial = np.clip(theta[busy] + step, surface.low, surface.high)
        reached = _objective(surface, trial, weights[busy])
        better = reached < objective[busy]
        theta[busy[better]], objective[busy[better]] = trial[better], reached[better]
        damping[busy] = np.clip(damping[busy] * np.where(better, 0.2, 8.0), 1e-10, None)
    return look(surface, theta, weights)


def judge(surface: Surface, ends: Ends) -> tuple[Array, Solver]:
    """The best end, and what all ends together say about it.

    A search that stopped early shows here whatever it said of itself: its gradient is not
    at rest, or its ends disagree.
    """
    best = int(np.argmin(ends.objective))
    theta, objective = ends.theta[best], ends.objective[best]
    same = ends.objective <= objective * (1 + SAME) + 1e-9 * surface.log_loss.size
    span = 1e-9 * (surface.high - surface.low)
    stuck = (theta <= surface.low + span) | (theta >= surface.high - span)
    at_bound = tuple(name for name, at in zip(surface.names, stuck, strict=True) if at)
    solver = Solver(
        agreement=float(np.mean(same)),
        gradient_norm=float(ends.gradient_norm[best]),
        at_bound=at_bound,
        converged=bool(ends.at_rest[best] and np.mean(same) >= 0.1),
    )
    return theta, solver


def _rho(miss: Array) -> Array:
    pull = np.clip(miss, -1, 1)
    return pull * (miss - pull / 2)


def _objective(surface: Surface, theta: Array, weights: Array) -> Array:
    miss = (surface.value(theta) - surface.log_loss) / surface.delta
    return np.sum(weights * _rho(miss), axis=1)


def _leaning(surface: Surface, theta: Array, gradient: Array) -> Array:
    """Which parameters stand at a bound and are pushed against it, shape (r, p)."""
    return ((theta <= surface.low) & (gradient > 0)) | ((theta >= surface.high) & (gradient < 0))


def _steps(surface: Surface, theta: Array, weights: Array, damping: Array) -> tuple[Array, Array]:
    """A damped Newton step of every row, shape (r, p), and its remaining pull, shape (r,)."""
    delta = surface.delta
    miss = (surface.value(theta) - surface.log_loss) / delta
    pull = np.clip(miss, -1, 1)
    slope = surface.slope(theta) / delta
    force = weights * pull
    gradient = np.einsum("rpn,rn->rp", slope, force)
    fixed = _leaning(surface, theta, gradient)
    gradient = np.where(fixed, 0, gradient)

    inside = weights * (np.abs(miss) < 1)
    bent = surface.bend(theta, force) / delta
    hessian = (slope * inside[:, None]) @ slope.transpose(0, 2, 1) + bent
    soft = weights / np.maximum(1, np.abs(miss))  # the diagonal of reweighted least squares
    scale = np.einsum("rpn,rpn,rn->rp", slope, slope, soft) + 1e-12
    here = np.arange(theta.shape[1])
    hessian[:, here, here] += damping[:, None] * scale
    hessian = np.where(fixed[:, :, None] | fixed[:, None, :], 0, hessian)
    hessian[:, here, here] += np.where(fixed, 1.0, 0.0)

    size = np.sqrt(np.einsum("rpn,rpn->rp", slope, slope))
    whole = np.sqrt(np.sum(force**2, axis=1)) + 1e-6 * np.sqrt(miss.shape[1])
    left = np.max(np.abs(gradient) / (size * whole[:, None] + 1e-300), axis=1)
    return -_solve(hessian, gradient), left


def _solve(matrices: Array, vectors: Array) -> Array:
    """Solutions of r symmetric systems, directions of negative curvature turned downhill."""
    values, axes = np.linalg.eigh(matrices)
    values = np.maximum(np.abs(values), 1e-14 * np.abs(values).max(axis=1, keepdims=True) + 1e-300)
    along = np.einsum("rij,ri->rj", axes, vectors) / values
    return np.einsum("rij,rj->ri", axes, along)
