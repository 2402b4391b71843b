"""One isoFLOP slice as evidence: its runs, its minimum, and why that may be worth less.

    D* = C(N*) / f(N*)

C(N*) is what the runs spent and f their FLOPs per token, both read between the slice's own
runs, linearly in ln N. C(N*) is the budget where the runs spent it; where FLOPs are counted
in another way than the budgets were planned in, it is what that way makes of them.

Three things are asked of every minimum. Would another shape of the valley put it elsewhere
(valley.py)? Is the curvature significantly above zero? Where it is not, the vertex has no bound. And
does one run stand where no valley could put it (outliers.py)? That one takes no part.

Source: isoFLOP slices, Hoffmann et al. 2022, Approach 2, arXiv:2203.15556; ratios such as
c1 / c2 whose denominator may be zero, Fieller 1954, doi:10.1111/j.2517-6161.1954.tb00159.x.

Not here: all budgets together (isoflop/law.py).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import stdtrit  # scipy.stats takes .4 s to import

from scalelab.laws.isoflop.outliers import Consensus
from scalelab.laws.isoflop.valley import SHAPES, FitWindow, SliceGrid, best_size, vertices
from scalelab.laws.observations import Array, Observations

WIDE = {"parabola": 8.0, "cubic": 4.0}
"""Factor from the lowest run beyond which a shape is biased, or unstable."""
MOVED = 0.10  # share of N* by which shapes may differ without a warning
TOLD = 0.02  # below it a wrong N* costs .01% of the compute, noise or not
CROWD = 300  # runs of one slice; beyond, what each of them does is not asked
CURVED, DIFFERENT = 0.95, 0.99  # levels; many shapes are compared, so the second is stricter


@dataclass(frozen=True, eq=False)
class Slice:
    """One budget: its runs, and its minimum or why there is none."""

    flops: float
    """The planned budget."""
    runs: Observations
    factor: float
    """Factor of the window."""
    shape: str
    refused: str | None
    at_edge: bool
    N: float
    """N*, NaN when refused; D and L likewise."""
    D: float
    L: float
    spent: float
    """FLOPs that the runs spent at N*; the planned budget where they kept to it."""
    window: FitWindow | None
    coefficients: Array | None
    """c0, c1, c2 of the parabola, whatever the shape."""
    misses: dict[str, float]
    """Runs left out as ruined: id, and the error of each from the valley as a share of its loss."""
    noise: tuple[float, int]
    """Residual sd of a run of weight 1 as a share of the loss at the minimum, and its degrees
    of freedom. A share, because noise falls with the loss from small budgets to large ones."""

    @classmethod
    def of(
        cls, runs: Observations, flops: float, factor: float, shape: str = "parabola", spread: float = 0.0
    ) -> "Slice":
        """The slice of all runs planned for exactly these FLOPs.

        Args:
            runs: Of any budgets.
            flops: The budget.
            factor: Of the window around the lowest run.
            shape: One of valley.SHAPES.
            spread: Robust spread of the losses that other slices show; 0 for unknown.
        """
        runs = runs.take(runs.flops_planned == flops)
        misses, weight = {}, runs.weight
        agreed = Consensus.of(runs.N, runs.L)
        if agreed is not None and (ruined := agreed.ruined(runs.L, spread)).any():
            share = runs.L / agreed.expected - 1
            misses = {str(runs.run[i]): float(share[i]) for i in np.flatnonzero(ruined)}
            weight = np.where(ruined, 0.0, weight)
        grid = SliceGrid(runs.N, weight)
        found = vertices(grid, runs.L[None], factor, shape)
        refused, window, coefficients = found.refused(0), None, None
        noise = (float("nan"), 0)
        if refused is None:
            best = float(best_size(runs.N, runs.L[None], weight)[0])
            window = FitWindow.around(runs.N, best, factor, weight)
            coefficients = window.coefficients(runs.L[None])[0]
            noise = _residual(window, runs.L, shape, float(found.L[0]))
        spent, D = spent_at(runs, grid, flops, found.N)
        return cls(
            flops=flops,
            runs=runs,
            factor=factor,
            shape=shape,
            refused=refused,
            at_edge=bool(found.at_edge[0]),
            N=float(found.N[0]),
            D=float(D[0]),
            L=float(found.L[0]),
            spent=float(spent[0]),
            window=window,
            coefficients=coefficients,
            misses=misses,
            noise=noise,
        )

    @property
    def ruined(self) -> tuple[str, ...]:
        """Ids of the runs that no valley of the others explains; they shape nothing."""
        return tuple(self.misses)

    @cached_property
    def grid(self) -> SliceGrid:
        """Where the runs stand; ruined ones have weight 0."""
        return SliceGrid(self.runs.N, np.where(np.isin(self.runs.run, self.ruined), 0, self.runs.weight))

    @property
    def fitted(self) -> Array:
        """The polynomial at the window's points; measured losses elsewhere, and for akima."""
        losses = self.runs.L.copy()
        if self.shape != "akima":
            losses[self.window.chosen] = _smooth(self.window, losses, self.shape)
        return losses

    @property
    def sides(self) -> tuple[int, int]:
        """Distinct sizes below and above the minimum."""
        sizes = self.grid.sizes
        return int(np.sum(sizes < self.N)), int(np.sum(sizes > self.N))

    @property
    def curvature(self) -> float | None:
        """c2 of the parabola, nats per token per square of ln N; None where refused."""
        return None if self.coefficients is None else float(self.coefficients[2])

    @property
    def curvature_interval(self) -> list[float] | None:
        """The 95% interval of the curvature, by the pooled residual; None where none is left."""
        sigma, spare = self.noise
        if self.curvature is None or not spare:
            return None
        error = sigma * self.L * float(np.sqrt(np.sum(self.window.map()[2] ** 2 / self.window.weight)))
        reach = float(stdtrit(spare, (1 + CURVED) / 2)) * error
        return [self.curvature - reach, self.curvature + reach]

    @cached_property
    def cross_check(self) -> dict[str, float | None]:
        """N* by cubic and by Akima's curve; the share by which the parabola exceeds the cubic."""
        N = {shape: float(self._readings(shape)[0]) for shape in SHAPES}
        bias = N["parabola"] / N["cubic"] - 1
        found = {"cubic": N["cubic"], "akima": N["akima"], "parabola_bias": bias}
        return {key: value if np.isfinite(value) else None for key, value in found.items()}

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why this minimum may be worth less than it seems."""
        return (*self.evidence_warnings, *(self._of_the_shape() if self.refused is None else ()))

    @property
    def evidence_warnings(self) -> tuple[str, ...]:
        """Those of the runs and where they stand, whatever curve is drawn through them."""
        found = [
            f"run {run} is off the valley of its slice by {miss:+.1%} of the loss and is left out"
            for run, miss in self.misses.items()
        ]
        off = float(np.max(np.abs(self.runs.C / self.flops - 1)))
        if off > 0.02:
            found.append(f"a run spent {off:.0%} more or less than the budget")
        if self.refused is not None:
            return tuple(found)
        if min(self.sides) < 3:
            found.append("fewer than three sizes on one side of the minimum")
        interval = self.curvature_interval
        if interval is not None and interval[0] <= 0:
            found.append("the curvature interval contains zero: no valley stands out of the noise")
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """The minimum as schema 1 has it; None where refused."""
        known = self.refused is None
        return {
            "flops": self.flops,
            "flops_spent": self.spent if known else None,
            "n_params": self.N if known else None,
            "n_tokens": self.D if known else None,
            "loss": self.L if known else None,
            "at_edge": self.at_edge,
            "refused": self.refused,
            "n_runs": len(self.runs),
            "n_sizes": len(np.unique(self.runs.N)),
            "ruined": list(self.ruined),
            "curvature": self.curvature,
            "curvature_interval": self.curvature_interval,
            "cross_check": dict(self.cross_check) if known else None,
            "warnings": list(self.warnings),
        }

    def _of_the_shape(self) -> list[str]:
        """What the curve through the runs leaves open of its minimum."""
        found = []
        if self.window.spare < 1:
            found.append("three sizes fit a parabola exactly: its error cannot be seen")
        widest = float(np.exp(np.abs(self.window.w).max()))
        if widest > WIDE.get(self.shape, np.inf) * (1 + 1e-9):
            fault = "biased" if self.shape == "parabola" else "unstable"
            found.append(f"the {self.shape} reaches {widest:.0f}x from the lowest run: {fault}")
        return found + self._moved()

    def _moved(self) -> list[str]:
        """Whether the shape of the valley matters more than it may."""
        mine = self._readings(self.shape)
        apart, beyond = 0.0, False
        sigma, spare = self.noise
        for shape in SHAPES.keys() - {self.shape}:
            difference = np.log(self._readings(shape) / mine)
            if not np.isfinite(difference[0]):
                continue
            apart = max(apart, abs(difference[0]))
            if spare and len(difference) > 1:
                error = sigma * self.L * _derivative(difference, self._step, self.grid.weight)
                reach = stdtrit(spare, (1 + DIFFERENT) / 2) * error
                beyond |= abs(difference[0]) > max(reach, np.log1p(TOLD))
        if apart <= np.log1p(MOVED) and not beyond:
            return []
        how = f"by more than {MOVED:.0%}" if apart > np.log1p(MOVED) else "more than noise explains"
        return [f"another shape of the valley moves N* {how}: see its cross-check"]

    @property
    def _step(self) -> float:
        """A loss small enough for derivatives of a vertex, nats per token."""
        return 1e-6 * float(np.ptp(self.runs.L[self.grid.weight > 0]))

    def _readings(self, shape: str) -> Array:
        """N* of the losses as they are, and with each in turn a step higher and lower.

        In a crowd only the first: no single run moves its minimum.
        """
        m = len(self.runs)
        if m > CROWD:
            return vertices(self.grid, self.runs.L[None], self.factor, shape).N
        steps = np.vstack([np.zeros(m), self._step * np.eye(m), -self._step * np.eye(m)])
        return vertices(self.grid, self.runs.L + steps, self.factor, shape).N


def spent_at(runs: Observations, grid: SliceGrid, flops: float, N: Array) -> tuple[Array, Array]:
    """FLOPs that the runs of a slice spent at N, and the tokens these bought; NaN at NaN.

    Args:
        runs: Runs of the slice.
        grid: Sizes of the slice.
        flops: Budget of the slice, FLOPs.
        N: Sizes to evaluate, any shape.
    """
    there = np.isfinite(N)
    filled = np.where(there, N, grid.sizes[0])
    spent = flops * np.exp(grid.between(np.log(runs.C / flops), filled))
    D = spent / np.exp(grid.between(np.log(runs.C / runs.D), filled))
    return np.where(there, spent, np.nan), np.where(there, D, np.nan)


def _degree(shape: str) -> int:
    """Return the degree of the polynomial of a shape; Akima's curve leaves no residual of its own."""
    return 2 if shape == "parabola" else 3


def _smooth(window: FitWindow, L: Array, shape: str) -> Array:
    degree = _degree(shape)
    powers = np.vander(window.w, degree + 1, increasing=True)
    return powers @ window.coefficients(L[None], degree)[0]


def _residual(window: FitWindow, L: Array, shape: str, level: float) -> tuple[float, int]:
    """Residual sd of one slice as a share of `level`, and its degrees of freedom."""
    spare = window.beyond(_degree(shape))
    square = float(np.sum(window.weight * (L[window.chosen] - _smooth(window, L, shape)) ** 2))
    return (float(np.sqrt(square / spare)) / level if spare else float("nan")), spare


def _derivative(readings: Array, step: float, weight: Array) -> float:
    """Standard error of a quantity for noise of sd 1 in a run of weight 1, by differences."""
    m = len(weight)
    slope = (readings[1 : m + 1] - readings[m + 1 :]) / (2 * step)
    known = weight > 0
    return float(np.sqrt(np.nansum(slope[known] ** 2 / weight[known])))
