"""A fit searched again from where it stands, with other weights of its runs.

A place is a row of coordinates, those of the search. Beside the constants of a fit at any place it has
the refit itself, and one Newton step in its stead:

    theta + H^-1 g,   H the Hessian of the objective at theta, g the share of the gradient that goes

A prior counts in H as it does in the objective.

Source: the infinitesimal jackknife, Efron & Tibshirani 1993, chapter 22.

Not here: what is left out, and what that says (influence.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from scalelab.laws import solver
from scalelab.laws.levenberg import Prior
from scalelab.laws.observations import Array, Observations
from scalelab.laws.solver import Surface

RunWeights = Callable[[int, int], Array]
"""Gives the weights of the runs in searches i to j, shape (j - i, n)."""


class Refits(Protocol):
    """What influence asks of a fit."""

    searches: int
    """Searches that one refit takes."""
    free: int
    """Constants that the runs have to hold."""

    @property
    def place(self) -> Array:
        """The fit itself, shape (p,)."""

    def again(self, places: Array, weights: RunWeights) -> Array:
        """Return the fits that are found from places (r, p); NaN where a search finds no rest."""

    def step_without(self, place: Array, members: list[Array], kept: Array) -> Array:
        """Return one Newton step for the fit to the kept runs without each of the members, shape (m, p)."""

    def values(self, places: Array) -> dict[str, Array]:
        """Return every exponent and constant at places (r, p), each of shape (r,)."""

    def errors(self, place: Array) -> tuple[Array, Array]:
        """Return the errors of the runs in the unit of the fit, and as shares of the loss; shape (n,)."""


class SearchedFit(Protocol):
    """A fit found by one search."""

    law: Any
    runs: Observations
    surface: Surface
    theta: Array


@dataclass(frozen=True, eq=False)
class SurfaceRefits:
    """A formula on its surface, searched by its own solver."""

    fit: SearchedFit
    prior: Prior | None = None
    by: Callable[[Array, RunWeights], tuple[Array, Array]] | None = None
    """Searches from starts (r, p) and returns their ends and which converged; None: solver.search."""
    searches: int = 1

    @property
    def free(self) -> int:
        """See `Refits`."""
        return len(self.fit.theta)

    @property
    def place(self) -> Array:
        """See `Refits`."""
        return self.fit.theta

    def again(self, places: Array, weights: RunWeights) -> Array:
        """See `Refits`."""
        if self.by is None:
            found = solver.search(self.fit.surface, places, weights, damping=1e-4)
            theta, rests = found.theta, found.converged
        else:
            theta, rests = self.by(places, weights)
        return np.where(rests[:, None], theta, np.nan)

    def step_without(self, place: Array, members: list[Array], kept: Array) -> Array:
        """See `Refits`."""
        surface, at = self.fit.surface, place[None]
        value, slope = surface.at(at)
        scaled = (value - surface.target) / surface.delta
        pull = np.clip(scaled, -1, 1) if surface.robust else scaled
        weight = surface.weight * kept
        inside = weight * (np.abs(scaled) < 1) if surface.robust else weight
        hessian = (slope[0] * inside) @ slope[0].T / surface.delta**2
        hessian = hessian + surface.hessian(at, slope, weight * pull)[0] / surface.delta
        if self.prior is not None:
            hessian = hessian + self.prior.precision / surface.delta**2
        gradient = (slope[0] * (weight * pull))[:, np.concatenate(members)] / surface.delta
        ends = np.cumsum([0, *map(len, members[:-1])])
        return place + np.linalg.lstsq(hessian, np.add.reduceat(gradient, ends, axis=1), rcond=None)[0].T

    def values(self, places: Array) -> dict[str, Array]:
        """See `Refits`."""
        with np.errstate(all="ignore"):
            constants = self.fit.surface.constants(places)
            found: Mapping[str, Array] = {**self.fit.law.exponents(constants), **constants}
        return {name: np.broadcast_to(value, len(places)) for name, value in found.items()}

    def errors(self, place: Array) -> tuple[Array, Array]:
        """See `Refits`."""
        surface = self.fit.surface
        error = surface.target - surface.at(place[None])[0][0]
        return error, error if surface.robust else error / surface.target  # ln L, or nats
