"""Batched Levenberg-Marquardt: robust fits of ln L that need first derivatives only, all starts at once.

    F(theta) = sum_i w_i rho(r_i) + 1/2 (theta - mu)' P (theta - mu),   r_i = value(theta; run i) - target_i
    rho(r) = r^2 / 2 for |r| <= delta, delta (|r| - delta / 2) beyond

    (H + damping diag(S)) step = -gradient
    S = J' diag(w min(1, delta / |r|)) J + P       while a search is far: reweighted least squares
    H = J' diag(w [|r| < delta]) J + P             as soon as that lowers F: Newton's step of Huber's penalty

The first H is positive, so it brings a poor start home; the second has the curvature that the penalty
really has, so the last steps are few. A prior (mean mu, precision P) is in the same unit as w r^2: P is
the inverse covariance times the variance of the errors. Without one, P = 0.

theta  free parameters, shape (r, p); w weights, shape (r, n); J slope, shape (r, p, n)

Against solver.py: there F is in units of delta, the second derivative of the formula is exact and
priors do not exist. Both end at the same optimum where P = 0.

Source: Marquardt 1963, doi:10.1137/0111030; Huber's penalty by reweighting, Holland & Welsch 1977,
doi:10.1080/03610927708827533; steps cut at the bounds, Kelley 1999, Iterative Methods for
Optimization, section 5.4.

Not here: formulas and their starts (forms/), what is drawn again (uncertainty/).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from scalelab.laws.observations import Array

CONVERGED = 1e-6
"""Remaining pull, as a share of all that pulls, below which a search is at an optimum."""
LONGEST = 1.5  # of a step, in every coordinate: these are logarithms, so a factor of 4.5
STALLED, STALLS = 1e-13, 6  # share by which F falls, and steps in a row that fall by less, at a search's end
AT_ONCE = 250_000  # numbers per row block: a few MB, so that a block stays in the cache


class SmoothModel(Protocol):
    """What is fitted: a prediction of ln L with its derivative. Every solver.Surface of ln L is one."""

    low: Array
    high: Array
    target: Array
    """Ln L of the runs, shape (n,)."""
    weight: Array
    """How much each run counts, shape (n,)."""

    def at(self, theta: Array) -> tuple[Array, Array]:
        """The prediction, shape (r, n), and its derivative, shape (r, p, n)."""


@dataclass(frozen=True, eq=False)
class Prior:
    """A Gaussian prior on the coordinates of a search."""

    mean: Array
    """Shape (p,)."""
    precision: Array
    """Inverse covariance times the variance of the errors of ln L; shape (p, p), or (r, p, p) for one each."""

    def rows(self, which: Array | slice) -> "Prior":
        """The prior of those searches."""
        return self if self.precision.ndim == 2 else Prior(self.mean, self.precision[which])


@dataclass(frozen=True, eq=False)
class LevenbergEnds:
    """Where searches ended, one per row."""

    theta: Array
    objective: Array
    """F, in the unit of squared errors of ln L."""
    gradient_norm: Array

    @property
    def converged(self) -> Array:
        """Which of them stopped at an optimum."""
        return self.gradient_norm <= CONVERGED

    @property
    def order(self) -> Array:
        """Rows, the lowest objective first."""
        return np.argsort(self.objective, kind="stable")


def descend(
    model: SmoothModel,
    starts: Array,
    *,
    delta: float,
    weights: Callable[[int, int], Array] | Array | None = None,
    prior: Prior | None = None,
    steps: int = 150,
    damping: float = 1e-2,
    fixed: Array | None = None,
    rest: float = CONVERGED / 100,
) -> LevenbergEnds:
    """Search from every start.

    Args:
        model: What is fitted.
        starts: One row per search, shape (r, p); cut at the model's bounds.
        delta: Error of ln L beyond which the pull of a run stops growing.
        weights: Of the runs, shape (r, n), beside the model's own; or a function that gives those of rows i
            to j, so that they need never be in memory together; None: 1.
        prior: On theta; None for none.
        steps: At most.
        damping: At the first step; small where the starts are known to be near.
        rest: Remaining pull at which a search stops, as a share.
        fixed: Coordinates that keep the value of the start, shape (p,), as for a profile; None: none.
    """
    starts = np.asarray(starts, float)
    block = max(1, AT_ONCE // max(model.target.size, 1))
    found = []
    for i in range(0, len(starts), block):
        rows = slice(i, min(i + block, len(starts)))
        mine = weights(rows.start, rows.stop) if callable(weights) else weights
        if mine is not None and not callable(weights):
            mine = mine[rows]
        own = np.broadcast_to(model.weight, (rows.stop - rows.start, model.target.size))
        search = _Search(
            model, own if mine is None else own * mine, delta, None if prior is None else prior.rows(rows)
        )
        found.append(search.run(starts[rows], steps, damping, fixed, rest))
    return LevenbergEnds(*(np.concatenate(part) for part in zip(*found, strict=True)))


@dataclass(frozen=True, eq=False)
class _Point:
    """Searches on their way: where they stand and what F says there."""

    theta: Array
    error: Array
    slope: Array
    objective: Array

    def take(self, rows: Array) -> "_Point":
        return _Point(*(value[rows] for value in self.__dict__.values()))

    def moved(self, better: Array, there: "_Point") -> "_Point":
        """The rows of `there` where it is better."""

        def pick(new: Array, old: Array) -> Array:
            return np.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        return _Point(*(pick(there.__dict__[k], self.__dict__[k]) for k in self.__dict__))


@dataclass(frozen=True, eq=False)
class _Search:
    """One block of searches."""

    model: SmoothModel
    weights: Array
    delta: float
    prior: Prior | None

    def run(
        self, starts: Array, steps: int, damping: float, fixed: Array | None, rest: float
    ) -> tuple[Array, Array, Array]:
        """theta, objective and gradient norm at the end of every start."""
        held = np.zeros(starts.shape[1], bool) if fixed is None else fixed
        ends = [np.empty(starts.shape), np.empty(len(starts)), np.empty(len(starts))]
        here = self._point(np.clip(starts, self.model.low, self.model.high))
        search, row = self, np.arange(len(starts))
        damp, stalls, newton = (
            np.full(len(starts), damping),
            np.zeros(len(starts), int),
            np.zeros(len(starts), bool),
        )
        for left_over in range(steps, -1, -1):
            gradient, stuck, norm = search._gradient(here, held)
            for end, value in zip(ends, (here.theta, here.objective, norm), strict=True):
                end[row] = value
            moving = (norm > rest) & (stalls < STALLS) & (damp < 1e12)
            if not left_over or not moving.any():
                break
            if not moving.all():
                row, damp, stalls, newton = row[moving], damp[moving], stalls[moving], newton[moving]
                here, gradient, stuck = here.take(moving), gradient[moving], stuck[moving]
                search = search._take(moving)
            step = search._step(here, gradient, stuck, damp, newton)
            there = search._point(
                np.clip(here.theta - np.clip(step, -LONGEST, LONGEST), self.model.low, self.model.high)
            )
            better = there.objective < here.objective
            fall = np.where(better, here.objective - there.objective, 0)
            slow = fall <= STALLED * np.abs(here.objective) + 1e-300
            stalls = np.where(slow, stalls + 1, 0)
            # A rejected Newton step is tried again as a reweighted one; a reweighted one that gains little
            # has come as near as it can, and Newton's may follow.
            damp = np.where(
                better, np.maximum(damp / 4, 1e-10), np.where(newton, damp, np.minimum(damp * 5, 1e13))
            )
            newton = better & (fall <= 0.1 * np.abs(here.objective))
            here = here.moved(better, there)
        return ends[0], ends[1], ends[2]

    def _take(self, rows: Array) -> "_Search":
        prior = None if self.prior is None else self.prior.rows(rows)
        return _Search(self.model, self.weights[rows], self.delta, prior)

    def _point(self, theta: Array) -> _Point:
        value, slope = self.model.at(theta)
        error = value - self.model.target
        size = np.abs(error)
        penalty = np.where(size < self.delta, error**2 / 2, self.delta * (size - self.delta / 2))
        objective = np.sum(self.weights * penalty, axis=1)
        if self.prior is not None:
            away = theta - self.prior.mean
            objective = objective + np.einsum("rp,rp->r", away, self._prior_force(away)) / 2
        return _Point(theta, error, slope, np.where(np.isfinite(objective), objective, 1e300))

    def _prior_force(self, away: Array) -> Array:
        """P (theta - mu) of each row."""
        return np.einsum("...pq,...q->...p", self.prior.precision, away)

    def _gradient(self, here: _Point, held: Array) -> tuple[Array, Array, Array]:
        """The gradient, which parameters cannot move, and the remaining pull as a share of all that pulls."""
        force = self.weights * np.clip(here.error, -self.delta, self.delta)
        gradient = (here.slope @ force[:, :, None])[:, :, 0]
        size = np.sqrt(np.einsum("rpn,rpn->rp", here.slope, here.slope))
        whole = np.sqrt(np.sum(force**2, axis=1)) + 1e-6 * self.delta * np.sqrt(force.shape[1])
        scale = size * whole[:, None]
        if self.prior is not None:
            force_of_prior = self._prior_force(here.theta - self.prior.mean)
            gradient, scale = gradient + force_of_prior, scale + np.abs(force_of_prior)
        low, high = self.model.low, self.model.high
        stuck = ((here.theta <= low) & (gradient > 0)) | ((here.theta >= high) & (gradient < 0)) | held
        gradient = np.where(stuck, 0, gradient)
        return gradient, stuck, np.max(np.abs(gradient) / (scale + 1e-300), axis=1)

    def _step(self, here: _Point, gradient: Array, stuck: Array, damp: Array, newton: Array) -> Array:
        """The damped step of every row, shape (r, p)."""
        size = np.abs(here.error)
        soft = self.weights * np.minimum(1, self.delta / np.maximum(size, 1e-300))
        hard = np.where(newton[:, None], self.weights * (size < self.delta), soft)
        hessian = (here.slope * hard[:, None]) @ here.slope.transpose(0, 2, 1)
        scale = np.einsum("rpn,rpn,rn->rp", here.slope, here.slope, soft)
        if self.prior is not None:
            hessian = hessian + self.prior.precision
            scale = scale + np.einsum("...pp->...p", self.prior.precision)
        at = np.arange(scale.shape[1])
        least = 1e-9 * scale.max(axis=1, keepdims=True) + 1e-300
        hessian[:, at, at] += damp[:, None] * scale + least
        hessian = np.where(stuck[:, :, None] | stuck[:, None, :], 0, hessian)
        hessian[:, at, at] += np.where(stuck, 1.0, 0.0)
        return np.linalg.solve(hessian, gradient[..., None])[..., 0]
