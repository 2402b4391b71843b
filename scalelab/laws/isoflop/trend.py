"""How a minimum moves with compute: power laws through a handful of points.

    power   y = Y (C/C0)^s             least squares in ln y, ln C
    floor   L = E + K (C/C0)^-gamma    least squares in relative loss; gamma by search

C0 is the geometric mean of the compute, where level and slope are nearly independent.
Points may be missing (NaN), and many replicates are fitted at once: y has shape (r, m), and C
the shape of y or (m,).

E is not forced to be positive. Where losses fall ever faster, the best E is negative: then
the form is a bend and not a floor, and `is_floor` says so.

Source: power laws of the optimum, Hoffmann et al. 2022, Approach 2, arXiv:2203.15556; the
floor form has the exponent gamma = alpha beta / (alpha + beta) on a Chinchilla surface.
"""

from dataclasses import dataclass

import numpy as np

from scalelab.laws.base import Optimum
from scalelab.laws.observations import Array

GAMMAS = (0.01, 1.0)  # from nearly a straight line in ln C to far steeper than any published


@dataclass(frozen=True, eq=False)
class PowerLaw:
    """y = level (C/C0)^slope, for r replicates."""

    C0: float
    level: Array
    slope: Array
    residual: Array
    """ln y minus the line, shape (r, m)."""

    @classmethod
    def of(cls, C: Array, y: Array, C0: float | None = None) -> "PowerLaw":
        """Through at least two points of every replicate."""
        C0, u = _centred(C, C0)
        weight, ln_y = _known(y)
        (_, mean_u, mean_y), du, dy = _moments(weight, u, ln_y)
        slope = np.sum(weight * du * dy, axis=1) / np.sum(weight * du**2, axis=1)
        level = np.exp(mean_y - slope * mean_u)
        return cls(C0, level, slope, np.where(weight > 0, dy - slope[:, None] * du, np.nan))

    def __call__(self, C: Array) -> Array:
        """The value at C; broadcasts against (r,)."""
        return self.level * (np.asarray(C) / self.C0) ** self.slope


@dataclass(frozen=True, eq=False)
class FloorLaw:
    """L = E + K (C/C0)^-gamma, for r replicates."""

    C0: float
    E: Array
    K: Array
    gamma: Array
    at_bound: Array
    """Where gamma stopped at an end of GAMMAS."""

    @classmethod
    def of(cls, C: Array, L: Array, C0: float | None = None) -> "FloorLaw":
        """Through at least three points of every replicate."""
        C0, u = _centred(C, C0)
        known = np.isfinite(L)
        loss = np.where(known, L, 1.0)
        weight = known / loss**2  # errors count as shares of the loss

        def line(gamma: Array) -> tuple[Array, Array, Array]:
            """The best E and K at gamma (r,), and their squared error."""
            v = np.exp(-gamma[:, None] * np.broadcast_to(u, loss.shape))
            (_, mean_v, mean_L), dv, dL = _moments(weight, v, loss)
            K = np.sum(weight * dv * dL, axis=1) / np.sum(weight * dv**2, axis=1)
            return mean_L - K * mean_v, K, np.sum(weight * (dL - K[:, None] * dv) ** 2, axis=1)

        grid = np.geomspace(*GAMMAS, 80)
        misses = np.stack([line(np.full(len(loss), g))[2] for g in grid])
        best = np.argmin(misses, axis=0)
        low, high = grid[np.maximum(best - 1, 0)], grid[np.minimum(best + 1, len(grid) - 1)]
        golden = (np.sqrt(5) - 1) / 2
        for _ in range(50):
            left, right = high - golden * (high - low), low + golden * (high - low)
            lower = line(left)[2] < line(right)[2]
            low, high = np.where(lower, low, left), np.where(lower, right, high)
        gamma = (low + high) / 2
        E, K, _ = line(gamma)
        edge = (gamma < GAMMAS[0] * 1.001) | (gamma > GAMMAS[1] * 0.999)
        return cls(C0, E, K, gamma, edge)

    @property
    def is_floor(self) -> Array:
        """Whether E can be read as a floor: positive, above it a falling loss, gamma inside."""
        return (self.E > 0) & (self.K > 0) & ~self.at_bound

    def __call__(self, C: Array) -> Array:
        """Loss at C; broadcasts against (r,)."""
        return self.E + self.K * (np.asarray(C) / self.C0) ** -self.gamma


@dataclass(frozen=True, eq=False)
class Trends:
    """The three trends of r replicates."""

    N: PowerLaw
    D: PowerLaw
    L: PowerLaw
    floor: FloorLaw | None
    form: str

    @classmethod
    def of(
        cls, C: Array, N: Array, D: Array, L: Array, form: str | None = None, C0: float | None = None
    ) -> "Trends":
        """Through the minima N, D, L (r, m). `form` None: a floor where four minima show one.

        Args:
            C: Budgets, FLOPs, shape (m,).
            N: Best sizes, shape (r, m).
            D: Best tokens, shape (r, m).
            L: Lowest losses, nats per token, shape (r, m).
            form: Form of L*(C): "floor" or "power"; None: a floor where four minima show one. A floor needs three.
            C0: Compute at which levels are stated, FLOPs; None: the geometric mean.
        """
        m = L.shape[1]
        lines = (PowerLaw.of(C, y, C0) for y in (N, D, L))
        floor = FloorLaw.of(C, L, C0) if m >= 3 and form != "power" else None
        if form is None:
            form = "floor" if m >= 4 and floor.is_floor[0] else "power"
        return cls(*lines, floor, form)

    @property
    def values(self) -> dict[str, Array]:
        """Every constant, each of shape (r,)."""
        found = {"a": self.N.slope, "b": self.D.slope, "l": -self.L.slope}
        found |= {"N0": self.N.level, "D0": self.D.level, "L0": self.L.level}
        if self.floor is not None:
            found |= {"E": self.floor.E, "K": self.floor.K, "gamma": self.floor.gamma}
        return {"C0": np.full(found["a"].shape, self.N.C0), **found}

    def optimum(self, C: Array) -> Optimum:
        """The optimum at C; broadcasts against (r,), a single replicate against anything."""
        curve = self.floor if self.form == "floor" else self.L
        N, D, L = self.N(C), self.D(C), curve(C)
        return Optimum(np.broadcast_to(C, N.shape), N, D, L)


def _centred(C: Array, C0: float | None) -> tuple[float, Array]:
    """C0, and ln C/C0; 0 where C is missing."""
    if C0 is None:
        C0 = float(np.exp(np.nanmean(np.log(C))))
    return C0, np.log(np.where(np.isfinite(C), C, C0) / C0)


def _known(y: Array) -> tuple[Array, Array]:
    known = np.isfinite(y)
    return known.astype(float), np.log(np.where(known, y, 1.0))


def _moments(weight: Array, x: Array, y: Array) -> tuple[tuple[Array, Array, Array], Array, Array]:
    """Total weight and weighted means, shape (r,), and the distances from these, (r, m)."""
    x = np.broadcast_to(x, y.shape)
    total = weight.sum(axis=1)
    mean_x, mean_y = np.sum(weight * x, axis=1) / total, np.sum(weight * y, axis=1) / total
    return (total, mean_x, mean_y), x - mean_x[:, None], y - mean_y[:, None]
