"""The curves of a study as plain numbers, so that a figure is only their drawing.

Each function takes a Study and returns what one figure shows, or None where the study has
no such thing. Units as in units.py: parameters, tokens, FLOPs, nats per token.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scalelab.laws.base import Array
from scalelab.laws.formula import FormulaFit
from scalelab.laws.interval import Interval, trusted
from scalelab.laws.isoflop import IsoFlopFit
from scalelab.laws.study import Study

POINTS = 81  # along a curve


@dataclass(frozen=True, eq=False)
class Valley:
    """One budget: its runs, its parabola where one was fitted, its minimum."""

    flops: float
    n_params: Array
    loss: Array
    used: Array
    """Which runs lie in the parabola's window; none where refused."""
    curve_n_params: Array
    """Inside the parabola's window; empty where refused."""
    curve_loss: Array
    minimum: tuple[float, float] | None
    """N* and L*."""
    interval: Interval
    """Of N*."""
    refused: str | None


@dataclass(frozen=True, eq=False)
class Curve:
    """One quantity along compute, with a band where it could be had."""

    flops: Array
    value: Array
    low: Array | None
    high: Array | None


@dataclass(frozen=True, eq=False)
class Minima:
    """What the slices themselves say, one point per interior minimum."""

    flops: Array
    value: Array
    intervals: tuple[Interval, ...]


@dataclass(frozen=True, eq=False)
class Allocation:
    """N* and D* along compute, by law: the one that speaks has bands."""

    speaker: str
    n_params: Mapping[str, Curve]
    n_tokens: Mapping[str, Curve]
    minima_n_params: Minima
    minima_n_tokens: Minima
    evidence_end: float
    target: float


@dataclass(frozen=True, eq=False)
class Frontier:
    """L* along compute, by law and form."""

    speaker: str
    curves: Mapping[str, Curve]
    minima: Minima
    runs_flops: Array
    runs_loss: Array
    evidence_end: float
    target: float
    forecast: float
    interval: Interval


@dataclass(frozen=True, eq=False)
class SurfaceMap:
    """The fitted loss over N and D, and the best path through it."""

    n_params: Array
    n_tokens: Array
    loss: Array
    """Shape (len(n_tokens), len(n_params))."""
    runs_n_params: Array
    runs_n_tokens: Array
    miss: Array
    """Of each run, as a share: predicted over measured, less one."""
    path_n_params: Array
    path_n_tokens: Array
    evidence_end: float
    """Compute at which the path leaves the evidence."""
    path_flops: Array


def valleys(study: Study) -> tuple[Valley, ...] | None:
    """The slices, ascending in budget; None without isoFLOP minima."""
    fit = study.fits.get("isoflop")
    if not isinstance(fit, IsoFlopFit):
        return None
    intervals = iter(study.minima_intervals())
    found = []
    for s in fit.slices:
        curve_n_params = curve_loss = np.array([])
        minimum = interval = None
        used = np.zeros(len(s.runs), bool)
        if s.refused is None:
            w, used = s.window.design[:, 1], s.window.chosen
            along = np.linspace(w.min(), w.max(), POINTS)
            curve_n_params = np.exp(s.window.centre + along)
            curve_loss = np.vander(along, 3, increasing=True) @ s.coefficients
            minimum, interval = (s.N, s.L), next(intervals)["n_params"]
        found.append(
            Valley(
                s.flops,
                s.runs.N,
                s.runs.L,
                used,
                curve_n_params,
                curve_loss,
                minimum,
                interval,
                s.refused,
            )
        )
    return tuple(found)


def allocation(study: Study) -> Allocation:
    """N*(C) and D*(C) of every law, from the smallest budget to the target."""
    flops = _compute(study)
    n_params, n_tokens = {}, {}
    for name, fit in study.fits.items():
        best = fit.optimum(flops)
        bands = _bands(study, flops, ("N", "D")) if name == study.forecast.law else {}
        n_params[name] = Curve(flops, best.N, *bands.get("N", (None, None)))
        n_tokens[name] = Curve(flops, best.D, *bands.get("D", (None, None)))
    return Allocation(
        study.forecast.law,
        n_params,
        n_tokens,
        _minima(study, "N", "n_params"),
        _minima(study, "D", "n_tokens"),
        study.fits[study.forecast.law].evidence_end,
        study.forecast.flops,
    )


def frontier(study: Study) -> Frontier:
    """L*(C) of every law and form, from the smallest budget to the target."""
    flops = _compute(study)
    speaker, curves = study.forecast.law, {}
    for name, fit in study.fits.items():
        bands = _bands(study, flops, ("L",)) if name == speaker else {}
        curves[name] = Curve(flops, fit.optimum(flops).L, *bands.get("L", (None, None)))
        for form in fit.frontiers(float(flops[0])):
            value = np.array([fit.frontiers(float(c))[form] for c in flops])
            if not np.array_equal(value, curves[name].value):
                curves[f"{name}, {form} form"] = Curve(flops, value, None, None)
    planned = study.runs.flops_planned
    return Frontier(
        speaker,
        curves,
        _minima(study, "L", "loss"),
        np.where(np.isnan(planned), study.runs.C, planned),
        study.runs.L,
        study.fits[study.forecast.law].evidence_end,
        study.forecast.flops,
        study.forecast.values["loss"],
        study.forecast.intervals["loss"],
    )


def surface(study: Study) -> SurfaceMap | None:
    """The Chinchilla surface around the runs and out to the target; None where refused."""
    fit = study.fits.get("chinchilla")
    if not isinstance(fit, FormulaFit):
        return None
    runs, flops = study.runs, _compute(study)
    best = fit.optimum(flops)
    n_params, n_tokens = (_map_axis(a, b) for a, b in ((runs.N, best.N), (runs.D, best.D)))
    return SurfaceMap(
        n_params,
        n_tokens,
        fit.predict(N=n_params[None, :], D=n_tokens[:, None]),
        runs.N,
        runs.D,
        fit.expected(runs) / runs.L - 1,
        best.N,
        best.D,
        runs.largest_budget,
        flops,
    )


def _map_axis(runs: Array, path: Array) -> Array:
    """Around the runs and along the path, but not past 100x the runs: a map, not a sky."""
    near = path[(path > runs.min() / 100) & (path < runs.max() * 100)]
    ends = np.concatenate([runs, near])
    return np.geomspace(ends.min() / 1.5, ends.max() * 1.5, POINTS)


def _compute(study: Study) -> Array:
    """Compute from the smallest budget to the target or the largest, whichever is further."""
    runs = study.runs
    ends = [runs.budgets[0] if runs.budgets.size else runs.C.min(), runs.largest_budget]
    ends.append(study.forecast.flops)
    return np.geomspace(min(ends), max(ends), POINTS)


def _bands(study: Study, flops: Array, symbols: tuple[str, ...]) -> dict[str, tuple[Array, Array]]:
    drawn = study.replicates[study.forecast.law]
    if drawn is None:
        return {}
    at = [drawn.optimum(float(c)) for c in flops]
    found = {}
    for symbol in symbols:
        ends = [trusted(drawn, getattr(best, symbol), study.level) for best in at]
        if all(end is not None for end in ends):
            low, high = np.array(ends).T
            found[symbol] = (low, high)
    return found


def _minima(study: Study, symbol: str, quantity: str) -> Minima:
    fit = study.fits.get("isoflop")
    kept = fit.minima if isinstance(fit, IsoFlopFit) else ()
    return Minima(
        np.array([s.flops for s in kept]),
        np.array([getattr(s, symbol) for s in kept]),
        tuple(interval[quantity] for interval in study.minima_intervals()),
    )
