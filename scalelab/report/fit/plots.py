"""The figures that give the answer, drawn from plot_data.py alone.

Not here: the figures that doubt it (diagnostic_plots.py), what all share (plot_style.py).
"""

from collections.abc import Mapping
from itertools import product

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scalelab.report.fit.plot_data import (
    AllocationCurves,
    FrontierCurves,
    Minima,
    QuantityCurve,
    SurfaceMap,
    TargetValue,
    ValleyPlot,
    ValleysPlot,
)
from scalelab.report.plots.plot_style import (
    BLUE,
    DASHES,
    FAINT,
    GREY,
    INK,
    MARKERS,
    SMALL,
    LineLabel,
    canvas,
    compute_axis,
    counts,
    heavy,
    law_style,
    log_limits,
    name_ends,
    room,
    shades,
    styled,
)
from scalelab.units import sci

NAMED = 12  # budgets that carry their name, of more every so many
VISIBLE = 0.015  # share of the axis by which another minimum must lie elsewhere to be marked
FAR = 1.0  # times the height of the frontier by which runs above it are still shown
OTHER_SHAPES = {"cubic": "d", "akima": "v"}


@styled
def draw_valleys(data: ValleysPlot) -> Figure:
    """Loss over size, one curve per budget, with its minimum."""
    figure, ((axes,),) = canvas((5.8, 4.0))
    found = data.valleys
    sizes = np.concatenate([v.n_params for v in found])
    ends = _valley_names(found)
    axes.set_xscale("log")
    beside = room(axes, [end.text for end in ends])
    axes.set_xlim(log_limits(sizes.min(), sizes.max(), right=beside))
    colours = shades(len(found))
    for k, valley in enumerate(found):
        _draw_valley(axes, valley, colours[k], MARKERS[k % len(MARKERS)])
    for valley in found:
        _draw_minimum(axes, valley)
    counts(axes.xaxis, last=sizes.max() * 1.1)
    axes.margins(y=0.05)
    axes.set_xlabel("parameters N")
    axes.set_ylabel("validation loss L (nats per token)")
    axes.set_title(f"Equal compute, many sizes [runs {data.kind}, parabola fitted]")
    name_ends(axes, ends)
    return figure


def _valley_names(found: tuple[ValleyPlot, ...]) -> list[LineLabel]:
    """The budget of each valley at its largest size; of many, every so many are named."""
    every, colours, ends = -(-len(found) // NAMED), shades(len(found)), []
    for k, valley in enumerate(found):
        if (len(found) - 1 - k) % every and not valley.refused:
            continue
        last = valley.n_params.max()
        loss = valley.loss[(valley.n_params == last) & ~valley.ruined]
        note = f"{sci(valley.flops)} FLOPs" + ("\nrefused" if valley.refused else "")
        ends.append(LineLabel(last, loss.mean() if loss.size else valley.loss.max(), note, colours[k]))
    return ends


def _draw_valley(axes: Axes, valley: ValleyPlot, colour: tuple, marker: str) -> None:
    sound = ~valley.ruined
    for which, fill in ((valley.used & sound, colour), (~valley.used & sound, "white")):
        axes.plot(
            valley.n_params[which],
            valley.loss[which],
            marker,
            ms=4.2,
            mfc=fill,
            mec=colour,
            mew=0.9,
            ls="",
            rasterized=heavy(valley.loss),
        )
    if valley.ruined.any():
        x, y = valley.n_params[valley.ruined], valley.loss[valley.ruined]
        axes.plot(x, y, marker, ms=4.2, mfc="white", mec=colour, mew=0.9, ls="")
        axes.plot(x, y, "x", ms=9, mew=1.3, color=INK, ls="", gid="ruined")
    axes.plot(valley.curve_n_params, valley.curve_loss, "-", color=colour, lw=1.3)


def _draw_minimum(axes: Axes, valley: ValleyPlot) -> None:
    if valley.minimum is None:
        return
    n_params, loss = valley.minimum
    if valley.interval:
        axes.plot(valley.interval, [loss, loss], "-", color=INK, lw=2.2, solid_capstyle="butt")
    axes.plot(n_params, loss, "+", ms=9, mew=1.5, color=INK, ls="")
    low, high = axes.get_xlim()
    for shape, other in valley.others.items():
        if abs(np.log(other / n_params)) > VISIBLE * np.log(high / low):
            y = np.interp(np.log(other), np.log(valley.curve_n_params), valley.curve_loss)
            marker = OTHER_SHAPES[shape]
            axes.plot(other, y, marker, ms=5, mfc="white", mec=INK, mew=1, ls="", gid=shape)


@styled
def draw_allocation(data: AllocationCurves) -> Figure:
    """N* and D* over compute, out to the target."""
    figure, (pair,) = canvas((7.4, 3.5), columns=2)
    sides = (
        (data.n_params, data.minima_n_params, data.target_n_params, "parameters N*"),
        (data.n_tokens, data.minima_n_tokens, data.target_n_tokens, "tokens D*"),
    )
    for axes, (curves, minima, target, label) in zip(pair, sides, strict=True):
        axes.set_xscale("log")
        axes.set_yscale("log")
        _compute_limits(axes, curves, target)
        low, high = _heights(curves[data.primary], minima, target)
        near = [v for c in curves.values() for v in c.value if low / 10 < v < high * 10]
        axes.set_ylim(log_limits(min(low, *near), max(high, *near)))
        _course(axes, curves, data)
        _points(axes, minima)
        _at_target(axes, target)
        _where_evidence_ends(axes, data.evidence_end, target.flops, top=False)
        compute_axis(axes, curves[data.primary].flops[-1])
        counts(axes.yaxis)
        axes.set_ylabel(label)
        _name_curves(axes, curves, data)
    state = "extrapolated" if data.target_n_params.extrapolated else "fitted"
    pair[0].set_title(f"How many parameters [{data.kind}, {state}]")
    pair[1].set_title(f"How many tokens [{data.kind}, {state}]")
    return figure


@styled
def draw_frontier(data: FrontierCurves) -> Figure:
    """The best loss over compute, every law and form, and the forecast."""
    figure, ((axes,),) = canvas((5.8, 4.0))
    axes.set_xscale("log")
    _compute_limits(axes, data.curves, data.target)
    low, high = _heights(data.curves[data.primary], data.minima, data.target)
    high = max(high, min(data.runs_loss.max(), high + FAR * (high - low)))
    axes.set_ylim(low - 0.1 * (high - low), high + 0.03 * (high - low))
    axes.plot(
        data.runs_flops,
        data.runs_loss,
        ".",
        ms=3.5,
        color="#a8a8a8",
        zorder=1,
        rasterized=heavy(data.runs_loss),
    )
    _course(axes, data.curves, data)
    _points(axes, data.minima)
    _at_target(axes, data.target)
    _where_evidence_ends(axes, data.evidence_end, data.target.flops, top=True)
    compute_axis(axes, data.curves[data.primary].flops[-1])
    axes.set_ylabel("validation loss at the best size L* (nats per token)")
    state = "extrapolated" if data.target.extrapolated else "fitted"
    axes.set_title(f"What compute buys [dots {data.kind}, diamond {state}]")
    _name_curves(axes, data.curves, data)
    return figure


@styled
def draw_surface(data: SurfaceMap) -> Figure:
    """Contours of the fitted loss, the runs on it, and the compute-optimal path."""
    figure, ((axes,),) = canvas((5.6, 4.3))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(data.n_params[0], data.n_params[-1])
    axes.set_ylim(data.n_tokens[0], data.n_tokens[-1])
    levels = MaxNLocator(10).tick_values(data.loss.min(), np.quantile(data.loss, 0.95))
    lines = axes.contour(
        data.n_params, data.n_tokens, data.loss, levels=levels, colors="#9a9a9a", linewidths=0.6, zorder=1
    )
    axes.clabel(lines, fmt="%.3g", fontsize=SMALL, inline_spacing=2, colors=GREY)
    inside = data.path_flops <= data.evidence_end * (1 + 1e-9)
    beyond = ~inside
    beyond[max(int(inside.sum()) - 1, 0) :] = True  # join the two
    for part, dash in ((inside, "evidence"), (beyond, "extrapolated")):
        x, y = data.path_n_params[part], data.path_n_tokens[part]
        axes.plot(x, y, ls=DASHES[dash], color=BLUE, lw=2)
    worst = float(np.max(np.abs(data.miss))) or 1.0
    many = heavy(data.miss)
    least, most, edge = (1, 12, 0.0) if many else (8, 60, 0.4)
    dark, light = ("#a8a8a8", "#dcdcdc") if many else (INK, "white")
    for marker, fitted in product("^v", (True, False)):
        here = ((data.miss >= 0) == (marker == "^")) & (data.fitted == fitted)
        axes.scatter(
            data.runs_n_params[here],
            data.runs_n_tokens[here],
            s=least + most * np.abs(data.miss[here]) / worst,
            marker=marker,
            facecolor=dark if fitted else light,
            edgecolor="white" if fitted else INK,
            linewidths=edge if fitted else 1.5 * edge,
            zorder=0 if many else 3,
            rasterized=many,
        )
    _name_path(axes, data)
    counts(axes.xaxis)
    counts(axes.yaxis)
    axes.set_xlabel("parameters N")
    axes.set_ylabel("tokens D")
    axes.set_title(f"Loss by {data.law}, nats per token [lines fitted, runs {data.kind}]")
    return figure


def _name_path(axes: Axes, data: SurfaceMap) -> None:
    """The name of the best path, above its end."""
    on_map = (data.path_n_params < data.n_params[-1]) & (data.path_n_tokens < data.n_tokens[-6])
    if not on_map.any():
        return
    last = np.flatnonzero(on_map)[-1]
    at = data.path_n_params[last], data.path_n_tokens[last]
    axes.annotate(
        "best use of compute",
        at,
        xytext=(-10, 7),
        textcoords="offset points",
        ha="right",
        va="bottom",
        color=BLUE,
        size=SMALL,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.85},
        zorder=4,
    )


def _label(name: str, curve: QuantityCurve) -> str:
    """Short for beside a line; what the runs refute says so."""
    return name.removesuffix(" form") + ("" if curve.counts else "\n(refuted)")


def _colour(curve: QuantityCurve, name: str, laws: tuple[str, ...]) -> str:
    return law_style(laws, name)[0] if curve.counts else GREY


def _compute_limits(axes: Axes, curves: Mapping[str, QuantityCurve], target: TargetValue) -> None:
    flops = next(iter(curves.values())).flops
    beside = room(axes, [_label(name, curve) for name, curve in curves.items()], pad=30)
    axes.set_xlim(log_limits(flops[0], max(flops[-1], target.flops), right=beside))


def _heights(curve: QuantityCurve, minima: Minima, target: TargetValue) -> tuple[float, float]:
    """Return the range that must be visible: the primary law, minima, interval and all fits."""
    parts = [curve.value, minima.value, np.array([target.value, *target.members])]
    parts += [part for part in (curve.low, curve.high, target.quoted) if part is not None]
    parts += [np.array(interval) for interval in minima.intervals if interval]
    values = np.concatenate([np.asarray(part, float) for part in parts])
    values = values[np.isfinite(values) & (values > 0)]
    return float(values.min()), float(values.max())


def _course(axes: Axes, curves: Mapping[str, QuantityCurve], data: AllocationCurves | FrontierCurves) -> None:
    """Solid inside the evidence, dashed beyond; dotted for other laws."""
    for name, curve in curves.items():
        speaks = name == data.primary
        inside = curve.flops <= data.evidence_end * (1 + 1e-9)
        beyond = ~inside
        beyond[max(int(inside.sum()) - 1, 0) :] = True  # join the two
        colour, width = _colour(curve, name, data.laws), 1.8 if speaks else 1.3
        for part, dash in ((inside, "evidence"), (beyond, "extrapolated")):
            style = DASHES[dash] if speaks else DASHES["other"]
            axes.plot(curve.flops[part], curve.value[part], ls=style, color=colour, lw=width)
        if curve.low is not None:
            axes.fill_between(curve.flops, curve.low, curve.high, color=colour, alpha=0.18, lw=0)


def _points(axes: Axes, minima: Minima) -> None:
    for flops, value, interval in zip(minima.flops, minima.value, minima.intervals, strict=True):
        if interval:
            axes.plot([flops, flops], interval, "-", color=INK, lw=1.2, zorder=4)
        axes.plot(flops, value, "o", ms=4.5, color=INK, zorder=4)


def _at_target(axes: Axes, target: TargetValue) -> None:
    """The forecast with the interval that is quoted, and a tick for every member that counts."""
    at = np.full(len(target.members), target.flops)
    axes.plot(at, target.members, "_", ms=9, mew=0.9, color=INK, zorder=4, gid="members")
    if target.quoted:
        low, high = target.quoted
        axes.plot([target.flops] * 2, [low, high], "-", color=INK, lw=1.3, zorder=5, gid="quoted")
    axes.plot(target.flops, target.value, "D", ms=5.5, mec=INK, mfc="white", zorder=6)


def _where_evidence_ends(axes: Axes, end: float, target: float, *, top: bool) -> None:
    if target <= end:
        return
    axes.axvline(end, color=FAINT, lw=0.8, zorder=0)
    for text, side, shift in (("evidence", "right", -4), ("extrapolated", "left", 4)):
        axes.annotate(
            text,
            (end, 0.985 if top else 0.015),
            xycoords=("data", "axes fraction"),
            xytext=(shift, 0),
            textcoords="offset points",
            ha=side,
            va="top" if top else "bottom",
            size=SMALL,
            color=GREY,
        )


def _name_curves(
    axes: Axes, curves: Mapping[str, QuantityCurve], data: AllocationCurves | FrontierCurves
) -> None:
    """The name of every curve where it ends, or where it leaves the picture."""
    low, high = axes.get_ylim()
    ends = []
    for name, curve in curves.items():
        seen = np.flatnonzero((curve.value >= low) & (curve.value <= high))
        if seen.size:
            colour, last = _colour(curve, name, data.laws), seen[-1]
            ends.append(LineLabel(curve.flops[last], curve.value[last], _label(name, curve), colour))
    name_ends(axes, ends)
