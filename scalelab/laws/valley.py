"""One isoFLOP slice: equal compute, many sizes, and the size with the lowest loss.

    L = c0 + c1 w + c2 w^2,   w = ln(N / N_best),   N* = N_best exp(-c1 / (2 c2))

The parabola sees a window around the size with the lowest measured loss (mean over its
seeds): all sizes within a factor `window` of it, and at least the five nearest when the
slice has as many. A true valley is not a parabola; on a grid centred on N* its vertex is off by
about (alpha - beta) h^2 / 10 in ln N for a window of +-h, which is 1.3% of D* at +-4x for
alpha = .34, beta = .28 and 5% at +-16x. Noise asks for the opposite, a wide window.

Source: isoFLOP parabolas, Hoffmann et al. 2022, Approach 2, arXiv:2203.15556; their bias,
Czech et al. 2026, arXiv:2603.22339; interior minima only, Porian et al. 2024, arXiv:2406.19146.

Not here: how minima move with compute (trend.py), how sure we are of them (isoflop.py).
"""

from dataclasses import dataclass

import numpy as np

from scalelab.laws.base import Array
from scalelab.units import si

LEAST_SIZES = 5  # two more than a parabola needs, so that a residual is left to see


@dataclass(frozen=True, eq=False)
class Vertices:
    """The lowest point of a slice under r readings of its losses; NaN where refused."""

    N: Array
    L: Array
    refused: tuple[str | None, ...]
    """Why there is no minimum; None where there is one."""
    at_edge: Array
    """Whether the reason is a lowest loss at the smallest or the largest size."""


@dataclass(frozen=True, eq=False)
class Window:
    """The points that one parabola is fitted to, and the least-squares map onto it."""

    chosen: Array
    """Mask over the slice's points."""
    centre: float
    """ln N_best."""
    design: Array
    """Powers 0, 1, 2 of w, shape (points in the window, 3)."""

    @classmethod
    def around(cls, N: Array, best: float, factor: float) -> "Window":
        """The window of a slice with points at N around its best size."""
        w = np.log(N / best)
        sizes = np.unique(w)
        reach = np.log(factor) * (1 + 1e-9)  # a grid drawn to exactly this factor is inside
        nearest = np.sort(np.abs(sizes))[:LEAST_SIZES][-1]
        beside = [
            abs(side[np.argmin(np.abs(side))]) for side in (sizes[sizes < 0], sizes[sizes > 0])
        ]
        chosen = np.abs(w) <= max(reach, nearest * (1 + 1e-9), *beside)
        return cls(chosen, float(np.log(best)), np.vander(w[chosen], 3, increasing=True))

    def coefficients(self, L: Array) -> Array:
        """c0, c1, c2 for every reading L (r, m); shape (r, 3)."""
        return L[:, self.chosen] @ np.linalg.pinv(self.design).T

    @property
    def spare(self) -> int:
        """Points beyond the three that a parabola takes."""
        return int(self.chosen.sum()) - 3


def best_size(N: Array, L: Array) -> Array:
    """The size with the lowest mean loss, for every reading L (r, m); shape (r,)."""
    sizes, which = np.unique(N, return_inverse=True)
    sums = np.stack([L[:, which == k].mean(axis=1) for k in range(len(sizes))], axis=1)
    return sizes[np.argmin(sums, axis=1)]


def vertices(N: Array, L: Array, factor: float) -> Vertices:
    """The minimum under every reading L (r, m) of the losses of one slice with sizes N (m,)."""
    r = len(L)
    sizes = np.unique(N)
    found_N, found_L = np.full((2, r), np.nan)
    refused: list[str | None] = [None] * r
    at_edge = np.zeros(r, bool)
    if len(sizes) < 3:
        reason = f"{len(sizes)} distinct sizes; a parabola needs 3"
        return Vertices(found_N, found_L, (reason,) * r, at_edge)
    best = best_size(N, L)
    for size in np.unique(best):
        rows = np.flatnonzero(best == size)
        if size in (sizes[0], sizes[-1]):
            side = "smallest" if size == sizes[0] else "largest"
            at_edge[rows] = True
            for row in rows:
                refused[row] = f"the lowest loss is at the {side} size, {si(size)}: no valley seen"
            continue
        window = Window.around(N, size, factor)
        c0, c1, c2 = window.coefficients(L[rows]).T
        with np.errstate(divide="ignore", invalid="ignore"):
            w = -c1 / (2 * c2)
        inside = (w >= window.design[:, 1].min()) & (w <= window.design[:, 1].max())
        with np.errstate(invalid="ignore"):
            lowest = c0 + c1 * w / 2
            good = (c2 > 0) & inside & (lowest > 0)
        found_N[rows] = np.where(good, size * np.exp(np.where(good, w, 0)), np.nan)
        found_L[rows] = np.where(good, lowest, np.nan)
        for row, up, ok, between in zip(rows, c2 > 0, good, inside, strict=True):
            if not up:
                refused[row] = (
                    "the parabola opens downward: a hill, or noise larger than the valley"
                )
            elif between and not ok:
                refused[row] = "the parabola reaches a loss below zero: not a valley of losses"
            elif not ok:
                refused[row] = "the vertex lies outside the sizes that the parabola was fitted to"
    return Vertices(found_N, found_L, tuple(refused), at_edge)
