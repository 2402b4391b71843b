"""The answer of a study as plain numbers, so that a figure is only their drawing.

Each function takes a Study and returns what one figure shows, or None where the study has
no such thing. Units as in units.py: parameters, tokens, FLOPs, nats per token.

Not here: the numbers that doubt the answer (diagnostics.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scalelab.laws.base import Optimum
from scalelab.laws.description import Interval
from scalelab.laws.isoflop.slices import Slice
from scalelab.laws.observations import Array
from scalelab.laws.uncertainty.bootstrap import trusted
from scalelab.study.study import Study

POINTS = 81  # along a parabola, and of each side of a map
ALONG = 25  # along compute, where every point of a band asks every replicate
MOST = 20_000  # marks of one figure; of more runs, so many are drawn
OFF_MAP = 100.0  # a map reaches no further than this factor beyond the runs


@dataclass(frozen=True, eq=False)
class ValleyPlot:
    """One budget: its runs, its parabola where one was fitted, its minimum."""

    flops: float
    n_params: Array
    loss: Array
    used: Array
    """Which runs lie in the parabola's window; none where refused."""
    ruined: Array
    """Which runs no valley of the others explains; they take no part."""
    curve_n_params: Array
    """Inside the parabola's window; empty where refused."""
    curve_loss: Array
    minimum: tuple[float, float] | None
    """N* and L*."""
    interval: Interval
    """Interval of N*."""
    others: Mapping[str, float]
    """N* by "cubic" and by "akima", where they have one."""
    refused: str | None


@dataclass(frozen=True, eq=False)
class ValleysPlot:
    """All budgets, ascending."""

    kind: str
    valleys: tuple[ValleyPlot, ...]
    hidden: int
    """Runs beyond those that are drawn."""


@dataclass(frozen=True, eq=False)
class ComputePath:
    """Optimum along compute by law, with bands for the primary law."""

    flops: Array
    best: Mapping[str, Optimum]
    bands: Mapping[str, tuple[Array, Array]]
    """By symbol N, D, L."""


@dataclass(frozen=True, eq=False)
class QuantityCurve:
    """One quantity along compute, with a band where it could be had."""

    flops: Array
    value: Array
    low: Array | None = None
    high: Array | None = None
    counts: bool = True
    """Whether the runs leave it standing."""


@dataclass(frozen=True, eq=False)
class Minima:
    """What the slices themselves say, one point per interior minimum."""

    flops: Array
    value: Array
    intervals: tuple[Interval, ...]


@dataclass(frozen=True, eq=False)
class TargetValue:
    """One quantity at the target compute."""

    flops: float
    value: float
    quoted: Interval
    members: tuple[float, ...]
    """What each member says that counts."""
    extrapolated: bool


@dataclass(frozen=True, eq=False)
class AllocationCurves:
    """N* and D* along compute, by law: the primary law has bands."""

    kind: str
    level: float
    laws: tuple[str, ...]
    """All that were fitted, in their order."""
    primary: str
    n_params: Mapping[str, QuantityCurve]
    n_tokens: Mapping[str, QuantityCurve]
    minima_n_params: Minima
    minima_n_tokens: Minima
    target_n_params: TargetValue
    target_n_tokens: TargetValue
    evidence_end: float


@dataclass(frozen=True, eq=False)
class FrontierCurves:
    """L* along compute, by law and form."""

    kind: str
    level: float
    laws: tuple[str, ...]
    """All that were fitted, in their order."""
    primary: str
    curves: Mapping[str, QuantityCurve]
    minima: Minima
    runs_flops: Array
    runs_loss: Array
    hidden: int
    """Runs beyond those that are drawn."""
    target: TargetValue
    evidence_end: float


@dataclass(frozen=True, eq=False)
class SurfaceMap:
    """The fitted loss over N and D, and the best path through it."""

    kind: str
    law: str
    n_params: Array
    n_tokens: Array
    loss: Array
    """Shape (len(n_tokens), len(n_params))."""
    runs_n_params: Array
    runs_n_tokens: Array
    miss: Array
    """Error of each run: predicted over measured loss, less one."""
    fitted: Array
    """Which of the runs that are drawn the law was fitted to; all of them where run names repeat."""
    n_fitted: int
    """Runs that the law was fitted to."""
    n_runs: int
    """All runs of the study."""
    hidden: int
    """Runs beyond those that are drawn."""
    path_n_params: Array
    path_n_tokens: Array
    path_flops: Array
    evidence_end: float
    """Compute at which the path leaves the evidence."""
    columns: tuple[str, ...]
    """What else the law reads; on the map these are what a plan would take."""


def thinned(n: int, keep: Array | None = None, most: int | None = None) -> Array:
    """Indices of MOST or `most` of n rows, evenly spread; the rows `keep` are among them."""
    most = most or MOST
    if n <= most:
        return np.arange(n)
    chosen = np.zeros(n, bool)
    chosen[np.linspace(0, n - 1, most).astype(int)] = True
    if keep is not None:
        chosen[keep] = True
    return np.flatnonzero(chosen)


def valleys(study: Study) -> ValleysPlot | None:
    """The slices, ascending in budget; None without isoFLOP minima."""
    if study.sliced is None:
        return None
    fit, intervals = study.fits[study.sliced], iter(study.minima_intervals(study.sliced))
    each = max(MOST // len(fit.slices), 200)
    found = tuple(
        _valley(s, next(intervals)["n_params"] if s.refused is None else None, each) for s in fit.slices
    )
    return ValleysPlot(study.kind, found, len(fit.runs) - sum(len(v.loss) for v in found))


def _valley(s: Slice, interval: Interval, most: int) -> ValleyPlot:
    curve_n_params = curve_loss = np.array([])
    minimum, others = None, {}
    used = np.zeros(len(s.runs), bool)
    ruined = np.isin(s.runs.run, s.ruined)
    if s.refused is None:
        w, used = s.window.w, s.window.chosen
        along = np.linspace(w.min(), w.max(), POINTS)
        curve_n_params = np.exp(s.window.centre + along)
        curve_loss = np.vander(along, 3, increasing=True) @ s.coefficients
        minimum = (s.N, s.L)
        others = {k: v for k in ("cubic", "akima") if (v := s.cross_check[k]) is not None}
    drawn = thinned(len(used), np.flatnonzero(ruined), most)
    return ValleyPlot(
        s.flops,
        s.runs.N[drawn],
        s.runs.L[drawn],
        used[drawn],
        ruined[drawn],
        curve_n_params,
        curve_loss,
        minimum,
        interval,
        others,
        s.refused,
    )


def along_compute(study: Study) -> ComputePath:
    """From the smallest budget to the target or the largest, whichever is further."""
    runs, law = study.runs, study.forecast.law
    first = runs.budgets[0] if runs.budgets.size else runs.C.min()
    ends = [first, runs.largest_budget, study.forecast.flops]
    flops = np.geomspace(min(ends), max(ends), ALONG)
    end = study.fits[law].evidence_end
    if flops[0] < end < flops[-1]:  # so that a line changes its dash there
        flops = np.unique(np.append(flops, end))
    best = {name: fit.optimum(flops) for name, fit in study.fits.items()}
    best = {name: optimum for name, optimum in best.items() if optimum is not None}
    return ComputePath(flops, best, _bands(study, flops))


def _bands(study: Study, flops: Array) -> dict[str, tuple[Array, Array]]:
    drawn = study.replicates[study.forecast.law]
    if drawn is None:
        return {}
    at = [drawn.optimum(float(C)) for C in flops]
    found = {}
    for symbol in "NDL":
        ends = [trusted(drawn, getattr(best, symbol), study.level) for best in at]
        if all(end is not None for end in ends):
            low, high = np.array(ends).T
            found[symbol] = (low, high)
    return found


def allocation(study: Study, along: ComputePath) -> AllocationCurves:
    """N*(C) and D*(C) of every law that allots."""
    law = study.forecast.law

    def curves(symbol: str) -> dict[str, QuantityCurve]:
        return {
            name: QuantityCurve(
                along.flops,
                getattr(best, symbol),
                *(along.bands.get(symbol, (None, None)) if name == law else (None, None)),
                counts=_counts(study, name),
            )
            for name, best in along.best.items()
        }

    return AllocationCurves(
        study.kind,
        study.level,
        tuple(study.fits),
        law,
        curves("N"),
        curves("D"),
        _minima(study, "N", "n_params"),
        _minima(study, "D", "n_tokens"),
        _target(study, "n_params"),
        _target(study, "n_tokens"),
        study.fits[law].evidence_end,
    )


def frontier(study: Study, along: ComputePath) -> FrontierCurves:
    """L*(C) of every law and form."""
    primary, flops, curves = study.forecast.law, along.flops, {}
    for name, fit in study.fits.items():
        best = along.best.get(name)
        if best is not None:
            band = along.bands.get("L", (None, None)) if name == primary else (None, None)
            curves[name] = QuantityCurve(flops, best.L, *band, counts=_counts(study, name))
        for form, last in fit.frontiers(float(flops[-1])).items():
            if best is not None and np.isclose(last, best.L[-1], rtol=1e-9):
                continue
            label = f"{name}, {form} form"
            value = np.array([fit.frontiers(float(C))[form] for C in flops])
            curves[label] = QuantityCurve(flops, value, counts=_counts(study, label))
    planned = study.runs.flops_planned
    drawn = thinned(len(study.runs))
    return FrontierCurves(
        study.kind,
        study.level,
        tuple(study.fits),
        primary,
        curves,
        _minima(study, "L", "loss"),
        np.where(np.isnan(planned), study.runs.C, planned)[drawn],
        study.runs.L[drawn],
        len(study.runs) - len(drawn),
        _target(study, "loss"),
        study.fits[primary].evidence_end,
    )


def surface(study: Study, along: ComputePath) -> SurfaceMap | None:
    """The first law of N and D around the runs and out to the target; None without one.

    One that reads no other column goes before one that does, whose runs lie beside the map.
    """
    surfaces = [(name, fit) for name, fit in study.fits.items() if fit.is_surface]
    if not surfaces:
        return None
    name, fit = min(surfaces, key=lambda one: bool(one[1].law.columns))
    runs, best = study.runs, along.best.get(name)
    path = np.array([[], []]) if best is None else np.array([best.N, best.D])
    n_params, n_tokens = (_map_axis(a, b) for a, b in zip((runs.N, runs.D), path, strict=True))
    miss = fit.expected(runs) / runs.L - 1
    drawn = thinned(len(runs), np.argsort(-np.abs(miss))[:10])
    fitted = np.isin(runs.run, fit.runs.run)
    if fitted.sum() != len(fit.runs):  # names repeat
        fitted = np.ones(len(runs), bool)
    return SurfaceMap(
        study.kind,
        name,
        n_params,
        n_tokens,
        fit.loss_at(n_params[None, :], n_tokens[:, None]),
        runs.N[drawn],
        runs.D[drawn],
        miss[drawn],
        fitted[drawn],
        len(fit.runs),
        len(runs),
        len(runs) - len(drawn),
        *path,
        along.flops if path.size else np.array([]),
        runs.largest_budget,
        tuple(column.name for column in fit.law.columns),
    )


def _map_axis(runs: Array, path: Array) -> Array:
    """Around the runs and along the path, but not far past the runs: a map, not a sky."""
    near = path[(path > runs.min() / OFF_MAP) & (path < runs.max() * OFF_MAP)]
    ends = np.concatenate([runs, near])
    return np.geomspace(ends.min() / 1.5, ends.max() * 1.5, POINTS)


def _counts(study: Study, name: str) -> bool:
    """Whether a law or form stands; one that is no member has nothing against it."""
    return all(m.refuted is None for m in study.forecast.members if m.name == name)


def _target(study: Study, quantity: str) -> TargetValue:
    f = study.forecast
    said = (m.values[quantity] for m in f.members if m.refuted is None and quantity in m.values)
    return TargetValue(
        f.flops, f.values[quantity], f.intervals[quantity], tuple(said), extrapolated=f.reach > 1
    )


def _minima(study: Study, symbol: str, quantity: str) -> Minima:
    sliced = study.sliced
    kept = study.fits[sliced].minima if sliced else ()
    return Minima(
        np.array([s.flops for s in kept]),
        np.array([getattr(s, symbol) for s in kept]),
        tuple(ends[quantity] for ends in (study.minima_intervals(sliced) if sliced else ())),
    )


def percent(value: float, _: int = 0) -> str:
    """A share for an axis."""
    return f"{100 * value:.3g}%"
