"""One isoFLOP slice: equal compute, many sizes, and the size with the lowest loss.

    parabola   L = c0 + c1 w + c2 w^2               w = ln(N / N_best)
    cubic      the same and c3 w^3                  N* = N_best exp(w*), w* the local minimum
    akima      ln L through the mean loss of every size, piecewise cubic in ln N

Parabola and cubic see a window around the size with the lowest measured loss (mean over its
seeds): all sizes within a factor `window` of it, and at least the five nearest when the slice
has as many. A true valley is not a parabola: on a grid centred on N* the vertex is off by

    delta ln N* = (alpha - beta) / 6 * sum w^4 / sum w^2,   about (alpha - beta) h^2 / 10

for a window of +-h, which is 1.3% of D* at +-4x for alpha = .34, beta = .28 and 5% at +-16x.
The cubic has no bias of that order, and is unstable on noisy slices wider than 4x. Akima's
curve has no window and no bias, and follows the noise. Noise asks for a wide parabola.

Source: isoFLOP parabolas, Hoffmann et al. 2022, Approach 2, arXiv:2203.15556; their bias,
Czech et al. 2026, arXiv:2603.22339; Akima and interior minima only, Porian et al. 2024,
arXiv:2406.19146 (who read the curve at 25 points per size; here its pieces are solved).

Not here: the slice as evidence (slices.py), how minima move with compute (trend.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from scalelab.laws.observations import Array
from scalelab.units import si

SHAPES = {"parabola": 3, "cubic": 4, "akima": 5}
"""The shapes of a valley, and the distinct sizes that each needs."""
LEAST_SIZES = 5  # two more than a parabola needs, so that a residual is left to see

FEW, SMALLEST, LARGEST, HILL, OUTSIDE, NEGATIVE = range(1, 7)  # 0: a minimum was found


@dataclass(frozen=True, eq=False)
class SliceGrid:
    """Where the m runs of one slice stand."""

    N: Array
    weight: Array
    """How much each counts; 0 leaves it out."""

    @cached_property
    def sizes(self) -> Array:
        """Distinct sizes that count, ascending."""
        return np.unique(self.N[self.weight > 0])

    @cached_property
    def _runs(self) -> tuple[Array, Array]:
        """The runs that count, by size, and where each size begins among them."""
        order = np.argsort(self.N, kind="stable")
        order = order[self.weight[order] > 0]
        return order, np.searchsorted(self.N[order], self.sizes)

    def means(self, values: Array) -> Array:
        """Weighted mean at every size of values (..., m), over its seeds; shape (..., k)."""
        order, first = self._runs
        weight = self.weight[order]
        total = np.add.reduceat(values[..., order] * weight, first, axis=-1)
        return total / np.add.reduceat(weight, first)

    def between(self, values: Array, N: Array) -> Array:
        """Values (m,) read at N, linearly in ln N between the means of the sizes."""
        return np.interp(np.log(N), np.log(self.sizes), self.means(values))


@dataclass(frozen=True, eq=False)
class Vertices:
    """The lowest point of a slice under r readings of its losses; NaN where refused."""

    N: Array
    L: Array
    why: Array
    """0 where there is a minimum, else which of the reasons."""
    reasons: Mapping[int, str]

    @property
    def at_edge(self) -> Array:
        """Whether the reason is a lowest loss at the smallest or the largest size."""
        return (self.why == SMALLEST) | (self.why == LARGEST)

    def refused(self, row: int) -> str | None:
        """Why a reading has no minimum; None where it has one."""
        return self.reasons.get(int(self.why[row]))


@dataclass(frozen=True, eq=False)
class FitWindow:
    """The points that one parabola is fitted to, and the least-squares map onto it."""

    chosen: Array
    """Mask over the slice's points."""
    centre: float
    """ln N_best."""
    design: Array
    """Powers 0, 1, 2 of w, shape (points in the window, 3)."""
    weight: Array
    """Weight of the points in the window."""

    @classmethod
    def around(cls, N: Array, best: float, factor: float, weight: Array | None = None) -> "FitWindow":
        """The window of a slice with runs at N around its best size; weight 0 leaves out.

        Args:
            N: Sizes of the runs, shape (m,).
            best: Size with the lowest loss.
            factor: Sizes from best/factor to best*factor are in the window, which is widened to hold
                LEAST_SIZES sizes and the nearest one on either side.
            weight: Weight of each run, shape (m,); None: 1.
        """
        weight = np.ones(len(N)) if weight is None else weight
        w = np.log(N / best)
        sizes = np.unique(w[weight > 0])
        reach = np.log(factor) * (1 + 1e-9)  # a grid drawn to exactly this factor is inside
        nearest = np.sort(np.abs(sizes))[:LEAST_SIZES][-1]
        beside = [abs(side[np.argmin(np.abs(side))]) for side in (sizes[sizes < 0], sizes[sizes > 0])]
        chosen = (np.abs(w) <= max(reach, nearest * (1 + 1e-9), *beside)) & (weight > 0)
        design = np.vander(w[chosen], 3, increasing=True)
        return cls(chosen, float(np.log(best)), design, weight[chosen])

    @property
    def w(self) -> Array:
        """ln(N / N_best) of the points."""
        return self.design[:, 1]

    def map(self, degree: int = 2) -> Array:
        """From losses in the window to c0, c1, ...; shape (degree + 1, points)."""
        root = np.sqrt(self.weight)
        powers = np.vander(self.w, degree + 1, increasing=True)
        return np.linalg.pinv(powers * root[:, None]) * root

    def coefficients(self, L: Array, degree: int = 2) -> Array:
        """c0, c1, ... for every reading L (r, m); shape (r, degree + 1)."""
        return L[:, self.chosen] @ self.map(degree).T

    @property
    def spare(self) -> int:
        """Points beyond the three that a parabola takes."""
        return self.beyond(2)

    def beyond(self, degree: int) -> int:
        """Points beyond those that a polynomial takes."""
        return int(self.chosen.sum()) - min(degree + 1, len(np.unique(self.w)))


def best_size(N: Array, L: Array, weight: Array | None = None) -> Array:
    """The size with the lowest mean loss, for every reading L (r, m); shape (r,)."""
    grid = SliceGrid(N, np.ones(len(N)) if weight is None else weight)
    return grid.sizes[np.argmin(grid.means(L), axis=1)]


def vertices(grid: SliceGrid, L: Array, factor: float, shape: str = "parabola") -> Vertices:
    """The minimum under every reading L (r, m) of the losses of one slice.

    Args:
        grid: Sizes of the slice.
        L: Losses, nats per token, shape (r, m).
        factor: See FitWindow.around.
        shape: Curve through the losses: parabola, cubic or akima.
    """
    r, sizes = len(L), grid.sizes
    article = "an" if shape == "akima" else "a"
    noun = "Akima curve" if shape == "akima" else shape
    reasons = {FEW: f"{len(sizes)} distinct sizes; {article} {noun} needs {SHAPES[shape]}"}
    N, lowest = np.full((2, r), np.nan)
    if len(sizes) < SHAPES[shape]:
        return Vertices(N, lowest, np.full(r, FEW), reasons)
    lead = "the lowest loss is at the"
    reasons |= {
        SMALLEST: f"{lead} smallest size, {si(sizes[0])}: no valley seen",
        LARGEST: f"{lead} largest size, {si(sizes[-1])}: no valley seen",
        HILL: "the parabola opens downward: a hill, or noise larger than the valley"
        if shape == "parabola"
        else f"the {noun} has no minimum",
        OUTSIDE: f"the vertex lies outside the sizes that the {noun} was fitted to",
        NEGATIVE: f"the {noun} reaches a loss below zero: not a valley of losses",
    }
    means = grid.means(L)
    best = np.argmin(means, axis=1)
    why = np.select([best == 0, best == len(sizes) - 1], [SMALLEST, LARGEST], 0)
    if shape == "akima":
        rows = np.flatnonzero(why == 0)
        ln_N, lowest[rows], why[rows] = _akima(np.log(sizes), means[rows])
        N[rows] = np.exp(ln_N)
    else:
        for k in np.unique(best[why == 0]):
            rows = np.flatnonzero(best == k)
            window = FitWindow.around(grid.N, sizes[k], factor, grid.weight)
            w, lowest[rows], why[rows] = _polynomial(window, L[rows], SHAPES[shape] - 1)
            N[rows] = sizes[k] * np.exp(w)
    refused = why > 0
    N[refused] = lowest[refused] = np.nan
    return Vertices(N, lowest, why, reasons)


def _polynomial(window: FitWindow, L: Array, degree: int) -> tuple[Array, Array, Array]:
    """w* and the loss there for every reading, and why not."""
    c0, c1, c2, c3 = np.pad(window.coefficients(L, degree), ((0, 0), (0, 3 - degree))).T
    w = _bottom(c1, c2, c3)
    inside = (w >= window.w.min()) & (w <= window.w.max())
    w = np.where(inside, w, 0.0)
    lowest = c0 + w * (c1 + w * (c2 + w * c3))
    curved = c2 + 3 * c3 * w > 0
    none = c2 <= 0 if degree == 2 else c2**2 < 3 * c1 * c3
    why = np.select([none, ~inside, ~curved, lowest <= 0], [HILL, OUTSIDE, HILL, NEGATIVE], 0)
    return w, lowest, why


def _akima(x: Array, means: Array) -> tuple[Array, Array, Array]:
    """Where mean losses (r, k) at x = ln N are lowest, the loss there, and why not."""
    negative = np.any(means <= 0, axis=1)
    y = np.log(np.where(negative[:, None], 1.0, means)).T
    if not y.size:
        return (np.empty(0),) * 2 + (np.empty(0, int),)
    c3, c2, c1, c0 = akima(x, y)
    start, width = x[:-1, None], np.diff(x)[:, None]
    w = _bottom(c1, c2, c3)
    inside = (w > 0) & (w < width)
    w = np.where(inside, w, 0.0)  # at w = 0 stands the mean itself
    value = c0 + w * (c1 + w * (c2 + w * c3))
    best = np.argmin(value, axis=0)[None]
    ln_N, ln_L = (np.take_along_axis(v, best, axis=0)[0] for v in (start + w, value))
    return ln_N, np.exp(ln_L), np.where(negative, NEGATIVE, 0)


def akima(x: Array, y: Array) -> tuple[Array, Array, Array, Array]:
    """Return the coefficients c3, c2, c1, c0 of Akima's piecewise cubics, powers of the distance from a piece's start.

    As scipy.interpolate.Akima1DInterpolator has them, which takes .25 s to import.
    Source: Akima 1970, doi:10.1145/321607.321609.

    Args:
        x: Increasing, shape (k,), k at least 3.
        y: Shape (k, r), one column a curve.

    Returns:
        Each of shape (k - 1, r).
    """
    h = np.diff(x)[:, None]
    m = np.diff(y, axis=0) / h
    before, after = 2 * m[0] - m[1], 2 * m[-1] - m[-2]
    m = np.vstack([2 * before - m[0], before, m, after, 2 * after - m[-1]])
    turns = np.abs(np.diff(m, axis=0))
    left, right = turns[2:], turns[:-2]  # how much each side of a point turns: the weight of the other side
    total = left + right
    slope = (m[3:] + m[:-3]) / 2  # where neither side turns
    turning = total > 1e-9 * total.max()
    share = right[turning] / total[turning]
    slope[turning] = m[1:-2][turning] + share * (m[2:-1] - m[1:-2])[turning]
    start, end, mean = slope[:-1], slope[1:], m[2:-2]
    return (start + end - 2 * mean) / h**2, (3 * mean - 2 * start - end) / h, start, y[:-1]


def _bottom(c1: Array, c2: Array, c3: Array) -> Array:
    """The local minimum of c1 w + c2 w^2 + c3 w^3; NaN or infinite where there is none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return -c1 / (c2 + np.sqrt(c2**2 - 3 * c1 * c3))
