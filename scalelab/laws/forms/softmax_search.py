"""The search for soft-max laws that are fitted to the same runs: each stage is one batch for all of them.

    1) a short search from every start, without a prior, one for each weighting of the runs
    2) the fit without a prior from the best of those, whose errors are the noise of the table
    3) the fit with each law's own prior, whose weight is that noise

Laws of one weighting share stages 1 and 2.

Not here: the law and its prior (softmax.py), the coordinates (softmax_surface.py), how several are
averaged (averaged/).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from scalelab.laws import levenberg
from scalelab.laws.base import Convergence
from scalelab.laws.forms.softmax_surface import NAMES, SoftmaxSurface
from scalelab.laws.levenberg import LevenbergEnds, Prior
from scalelab.laws.observations import Array, Observations
from scalelab.laws.weighted_quantile import weighted_median

LEAST_NOISE = 1e-5
"""Noise of ln L that is assumed at the least: losses are printed to about as many digits."""
COARSE_DELTA, COARSE_STEPS = 0.01, 12  # of the search from every start
KEPT, FIRST = 4, 2  # starts that are searched to the end, and those that show the noise first
FIRST_STEPS, LAST_STEPS = 40, 1000  # of the fit without a prior and of that with it
SAME = 1e-4  # share of the best objective within which two ends agree


class SearchedSoftmax(Protocol):
    """What the search asks of a soft-max law."""

    @property
    def power(self) -> float:
        """Power of the weight (C / C_max)^power of a run."""

    @property
    def huber_delta(self) -> float:
        """Error of ln L beyond which the weight of a run stops growing."""

    def bind(self, runs: Observations) -> SoftmaxSurface:
        """Return the law at these runs."""

    def prior(self, surface: SoftmaxSurface, noise: float) -> Prior:
        """Return its prior in the unit of squared errors of ln L."""


@dataclass(frozen=True, eq=False)
class SoftmaxEnd:
    """Where the search for one law ended."""

    surface: SoftmaxSurface
    theta: Array
    """Shape (6,)."""
    scaled: float
    """The objective in units of delta."""
    solver: Convergence
    prior: Prior
    noise: float
    """Robust standard deviation of ln L around the fit without a prior."""


def search(laws: Sequence[SearchedSoftmax], runs: Observations) -> tuple[SoftmaxEnd, ...]:
    """The end of every law.

    Args:
        laws: Laws that agree in huber_delta.
        runs: Runs that count.
    """
    surfaces = {law.power: law.bind(runs) for law in laws}
    powers, delta = list(surfaces), laws[0].huber_delta
    plain, weight = _unweighted(list(surfaces.values()))
    kept = coarse_ends(list(surfaces.values()))[:, :KEPT]

    def ends(thetas: Array, own: Array, steps: int, prior: Prior | None = None) -> LevenbergEnds:
        """Searches from thetas (g, s, 6), with weights (g, n) for each group of s."""
        rows = np.repeat(own, thetas.shape[1], axis=0)
        flat = thetas.reshape(-1, thetas.shape[2])
        return levenberg.descend(plain, flat, delta=delta, weights=rows, prior=prior, steps=steps)

    first = ends(kept[:, :FIRST], weight, FIRST_STEPS)
    best = np.argmin(first.objective.reshape(len(powers), FIRST), axis=1)
    noise = {
        power: noise_around(surfaces[power], first.theta[k * FIRST + best[k]], runs)
        for k, power in enumerate(powers)
    }
    at = [powers.index(law.power) for law in laws]
    priors = [law.prior(surfaces[law.power], noise[law.power]) for law in laws]
    precision = np.repeat([prior.precision for prior in priors], KEPT, axis=0)
    last = ends(kept[at], weight[at], LAST_STEPS, Prior(priors[0].mean, precision))
    found = []
    for k, (law, prior) in enumerate(zip(laws, priors, strict=True)):
        rows = slice(k * KEPT, (k + 1) * KEPT)
        mine = LevenbergEnds(last.theta[rows], last.objective[rows], last.gradient_norm[rows])
        theta, solver = _best_end(surfaces[law.power], mine)
        scaled = float(mine.objective.min()) / delta**2
        found.append(SoftmaxEnd(surfaces[law.power], theta, scaled, solver, prior, noise[law.power]))
    return tuple(found)


def coarse_ends(surfaces: Sequence[SoftmaxSurface]) -> Array:
    """Where the starts of each surface stand after a few steps, best first, shape (g, s, 6).

    Args:
        surfaces: Surfaces of the same runs, which differ in the weights of these.
    """
    plain, weight = _unweighted(surfaces)
    begins = np.array([surface.starts() for surface in surfaces])
    rows = np.repeat(weight, begins.shape[1], axis=0)
    flat = begins.reshape(-1, begins.shape[2])
    ends = levenberg.descend(plain, flat, delta=COARSE_DELTA, weights=rows, steps=COARSE_STEPS)
    order = np.argsort(ends.objective.reshape(len(surfaces), -1), axis=1, kind="stable")
    return np.take_along_axis(ends.theta.reshape(begins.shape), order[:, :, None], axis=1)


def noise_around(surface: SoftmaxSurface, theta: Array, runs: Observations) -> float:
    """Standard deviation of ln L around theta (6,), robust, at least LEAST_NOISE."""
    error = np.abs(surface.at(theta[None])[0][0] - surface.target)
    count = float(runs.weight.sum())
    spare = max(count - len(NAMES), 1.0)
    return max(1.4826 * weighted_median(error, runs.weight) * float(np.sqrt(count / spare)), LEAST_NOISE)


def _unweighted(surfaces: Sequence[SoftmaxSurface]) -> tuple[SoftmaxSurface, Array]:
    """A surface of the same runs whose weights are 1, and the weights of each surface, shape (g, n)."""
    weight = np.array([surface.weight for surface in surfaces])
    return replace(surfaces[0], weight=np.ones(weight.shape[1])), weight


def _best_end(surface: SoftmaxSurface, ends: LevenbergEnds) -> tuple[Array, Convergence]:
    """The best end, and what all ends together say about it."""
    best = int(ends.order[0])
    theta, objective = ends.theta[best], ends.objective[best]
    same = float(
        np.mean(ends.objective <= objective * (1 + SAME) + 1e-9 * surface.delta**2 * surface.target.size)
    )
    span = 1e-9 * (surface.high - surface.low)
    stuck = (theta <= surface.low + span) | (theta >= surface.high - span)
    at_bound = tuple(name for name, at in zip(surface.coordinates, stuck, strict=True) if at)
    converged = bool(ends.converged[best])
    return theta, Convergence(len(ends.objective), same, float(ends.gradient_norm[best]), at_bound, converged)
