"""The search for a formula's constants: many starts, one robust objective, no stop unseen.

    F(theta) = sum_i w_i rho(m_i),   m_i = (value(theta; run i) - target_i) / delta
    rho(m) = m^2 / 2 for |m| <= 1, |m| - 1/2 beyond;  m^2 / 2 throughout where not robust

Errors are counted in units of delta, so F is of order 1 to 1000 and no tolerance is blind
to it. Every start and every bootstrap replicate (weights w) takes damped Newton steps at
once: an exact Hessian, a damping of its own for each, a step only where F falls.

theta  free parameters, shape (r, p); w weights, shape (r, n); pull = d rho / d m

Source: objective, Hoffmann et al. 2022, section 3.3, arXiv:2203.15556. The fault that this
guards against (a mean in place of the sum, default tolerances, one start): Besiroglu et al.
2024, arXiv:2404.10102. Damping: Marquardt 1963, scaled by the curvature's diagonal.

Not here: formulas (formula.py and the laws), what is drawn again (bootstrap.py).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from scalelab.laws.base import Convergence
from scalelab.laws.observations import Array, Observations

MAX_STEPS = 300
CONVERGED_GRADIENT = 1e-7  # gradient_norm below which a search is at an optimum
SAME = 1e-4  # share of the best objective within which two ends agree
AGREED = 0.1  # share of starts below which the best end is one start's luck
AT_ONCE = 250_000  # numbers per row block: a few MB, so that a block stays in the cache


class Surface(ABC):
    """A formula bound to its runs, in coordinates in which it can be searched.

    `theta` has shape (r, p). Subclasses are frozen dataclasses with these fields.
    """

    names: tuple[str, ...]
    """Constants, one for each coordinate."""
    low: Array
    high: Array
    target: Array
    """What is to be met, one for each run, shape (n,)."""
    delta: float
    """Unit of an error; beyond it the weight of a run stops growing, if the objective is robust."""
    robust: bool
    weight: Array
    """How much each run counts, shape (n,); 1 unless the table says otherwise."""

    @abstractmethod
    def at(self, theta: Array) -> tuple[Array, Array]:
        """The prediction, shape (r, n), and its derivative, shape (r, p, n)."""

    @abstractmethod
    def hessian(self, theta: Array, slope: Array, pull: Array) -> Array:
        """Sum over runs of pull times the second derivative, shape (r, p, p)."""

    @abstractmethod
    def starts(self) -> Array:
        """Where searches begin, shape (s, p): wide enough that no basin is missed."""

    @abstractmethod
    def constants(self, theta: Array) -> dict[str, Array]:
        """The constants of the formula at theta, each of shape (r,)."""

    @abstractmethod
    def theta(self, constants: dict[str, float]) -> Array:
        """The inverse of `constants`, shape (p,)."""


class FittedFormula(Protocol):
    """What diagnostics ask of a fit that was found by a search."""

    law: Any
    runs: Observations
    surface: Surface
    theta: Array
    """Coordinates of the fit on its surface, shape (p,)."""
    params: Mapping[str, float]
    exponents: Mapping[str, float]
    broken: tuple[str, ...]
    cost: Any

    @property
    def scaled(self) -> float:
        """The objective in units of delta."""

    def loss_at(self, N: Array | float, D: Array | float, params: Mapping[str, Any] | None = None) -> Array:
        """Loss of any N and D, with other constants if given."""

    def optimum(self, C: Array | float) -> Any:
        """The best N and D at C FLOPs; None for a law that allots nothing."""


@dataclass(frozen=True, eq=False)
class SearchResults:
    """Where searches ended, one per row."""

    theta: Array
    objective: Array
    """F, scaled: multiply by delta^2 for the published objective."""
    gradient_norm: Array

    @property
    def converged(self) -> Array:
        """Which of them stopped at an optimum."""
        return self.gradient_norm <= CONVERGED_GRADIENT


def evaluate(surface: Surface, theta: Array, weights: Array | None = None) -> SearchResults:
    """The objective and the remaining pull at theta (r, p), whoever found it."""
    here = _SearchState.at(surface, theta, _weights(surface, len(theta), weights))
    return SearchResults(theta, here.objective, here.left)


def search(
    surface: Surface,
    starts: Array,
    weights: Callable[[int, int], Array] | None = None,
    *,
    damping: float = 1e-2,
) -> SearchResults:
    """Damped Newton from every start (r, p).

    Args:
        surface: What is fitted.
        starts: One row per search.
        weights: Gives the weights of rows i to j, shape (j - i, n), whenever a block of them
            is searched, so that they need never be in memory together; None: the surface's own.
        damping: At the first step; small where the starts are known to be near.
    """
    block = max(1, AT_ONCE // max(surface.target.size, 1))
    found = []
    for i in range(0, len(starts), block):
        rows = starts[i : i + block]
        mine = None if weights is None else weights(i, i + len(rows))
        found.append(_descend(surface, rows, _weights(surface, len(rows), mine), damping))
    return SearchResults(*(np.concatenate(part) for part in zip(*found, strict=True)))


def judge(surface: Surface, ends: SearchResults) -> tuple[Array, Convergence]:
    """The best end, and what all ends together say about it.

    A search that stopped early shows here whatever it reported: its gradient is not
    at rest, or its ends disagree.
    """
    best = int(np.argmin(ends.objective))
    theta, objective = ends.theta[best], ends.objective[best]
    same = ends.objective <= objective * (1 + SAME) + 1e-9 * surface.target.size
    span = 1e-9 * (surface.high - surface.low)
    stuck = (theta <= surface.low + span) | (theta >= surface.high - span)
    at_bound = tuple(name for name, at in zip(surface.names, stuck, strict=True) if at)
    solver = Convergence(
        starts=len(ends.objective),
        agreement=float(np.mean(same)),
        gradient_norm=float(ends.gradient_norm[best]),
        at_bound=at_bound,
        converged=bool(ends.converged[best] and np.mean(same) >= AGREED),
    )
    return theta, solver


def by_differences(surface: Surface, theta: Array, pull: Array) -> Array:
    """`bend` from differences of the exact slope, for formulas too long to derive twice."""
    r, p = theta.shape
    bent = np.empty((r, p, p))
    for j in range(p):
        step = 1e-5 * np.maximum(1, np.abs(theta[:, j]))
        up, down = theta.copy(), theta.copy()
        up[:, j] += step
        down[:, j] -= step
        change = surface.at(up)[1] - surface.at(down)[1]
        bent[:, j] = (change @ pull[:, :, None])[:, :, 0] / (2 * step[:, None])
    return (bent + bent.transpose(0, 2, 1)) / 2


def _weights(surface: Surface, rows: int, weights: Array | None) -> Array:
    if weights is None:
        return np.broadcast_to(surface.weight, (rows, surface.target.size))
    return weights * surface.weight


@dataclass(eq=False)
class _SearchState:
    """Searches on their way: theta and what the surface says there."""

    theta: Array
    weights: Array
    miss: Array
    slope: Array
    objective: Array
    gradient: Array
    fixed: Array
    """Which parameters stand at a bound and are pushed against it, shape (r, p)."""
    left: Array
    """Remaining pull, shape (r,)."""

    @classmethod
    def at(cls, surface: Surface, theta: Array, weights: Array) -> "_SearchState":
        value, slope = surface.at(theta)
        miss = (value - surface.target) / surface.delta
        pull = np.clip(miss, -1, 1) if surface.robust else miss
        objective = np.sum(weights * pull * (miss - pull / 2), axis=1)
        force = weights * pull
        gradient = (slope @ force[:, :, None])[:, :, 0] / surface.delta
        fixed = ((theta <= surface.low) & (gradient > 0)) | ((theta >= surface.high) & (gradient < 0))
        gradient = np.where(fixed, 0, gradient)
        # As a share: |J' w pull| against |J| |w pull|. The small floor keeps a perfect fit at
        # 0/0 from looking restless; it is 1e-6 delta, far below what a loss is known to.
        size = np.sqrt(np.einsum("rpn,rpn->rp", slope, slope)) / surface.delta
        whole = np.sqrt(np.sum(force**2, axis=1)) + 1e-6 * np.sqrt(miss.shape[1])
        left = np.max(np.abs(gradient) / (size * whole[:, None] + 1e-300), axis=1)
        return cls(theta, weights, miss, slope, objective, gradient, fixed, left)

    def take(self, rows: Array) -> "_SearchState":
        """Those of the searches."""
        return _SearchState(*(value[rows] for value in self.__dict__.values()))

    def put(self, rows: Array, other: "_SearchState", which: Array) -> None:
        """Overwrite `rows` with the rows `which` of another."""
        for name, value in self.__dict__.items():
            if name != "weights":
                value[rows] = getattr(other, name)[which]


def _descend(surface: Surface, starts: Array, weights: Array, damping: float) -> tuple[Array, Array, Array]:
    """theta, objective and gradient norm at the end of every start."""
    theta = np.clip(starts, surface.low, surface.high)
    here = _SearchState.at(surface, theta, weights)
    ends = [theta.copy(), here.objective.copy(), here.left.copy()]
    row, damp = np.arange(len(theta)), np.full(len(theta), damping)
    for _ in range(MAX_STEPS):
        moving = (here.left > CONVERGED_GRADIENT / 10) & (damp < 1e12)
        if not moving.all():
            row, damp, here = row[moving], damp[moving], here.take(moving)
        if not row.size:
            break
        trial = np.clip(here.theta + _step(surface, here, damp), surface.low, surface.high)
        there = _SearchState.at(surface, trial, here.weights)
        better = there.objective < here.objective
        damp = np.clip(damp * np.where(better, 0.2, 8.0), 1e-10, None)
        if better.all():
            here = there
        else:
            here.put(np.flatnonzero(better), there, better)
        for end, value in zip(ends, (here.theta, here.objective, here.left), strict=True):
            end[row] = value
    return ends[0], ends[1], ends[2]


def _step(surface: Surface, here: _SearchState, damping: Array) -> Array:
    """A damped Newton step of every row, shape (r, p)."""
    delta, miss, slope, weights = surface.delta, here.miss, here.slope, here.weights
    if surface.robust:
        pull, inside = np.clip(miss, -1, 1), weights * (np.abs(miss) < 1)
        soft = weights / np.maximum(1, np.abs(miss))  # diagonal of reweighted least squares
    else:
        pull, inside, soft = miss, weights, weights
    bent = surface.hessian(here.theta, slope, weights * pull) / delta
    hessian = (slope * inside[:, None]) @ slope.transpose(0, 2, 1) / delta**2 + bent
    scale = np.einsum("rpn,rpn,rn->rp", slope, slope, soft) / delta**2 + 1e-12
    at = np.arange(here.theta.shape[1])
    hessian[:, at, at] += damping[:, None] * scale
    hessian = np.where(here.fixed[:, :, None] | here.fixed[:, None, :], 0, hessian)
    hessian[:, at, at] += np.where(here.fixed, 1.0, 0.0)
    return -_solve(hessian, here.gradient)


def _solve(matrices: Array, vectors: Array) -> Array:
    """Solutions of r symmetric systems, directions of negative curvature turned downhill."""
    values, axes = np.linalg.eigh(matrices)
    values = np.maximum(np.abs(values), 1e-14 * np.abs(values).max(axis=1, keepdims=True) + 1e-300)
    along = np.einsum("rij,ri->rj", axes, vectors) / values
    return np.einsum("rij,rj->ri", axes, along)
