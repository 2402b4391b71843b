"""The figures of a study, drawn from numbers.py alone.

Readable in grey and without colour vision: budgets differ by marker and by lightness, laws by
dash, and lines carry their names. Solid is inside the evidence, dashed is extrapolated.
"""

from collections.abc import Callable, Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from scalelab.report.numbers import Allocation, Curve, Frontier, Minima, SurfaceMap, Valley
from scalelab.units import sci, si

STYLE = {
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "svg.hashsalt": "scalelab",  # the same study gives the same file
    "svg.fonttype": "none",
}
MARKERS = "osD^vP<X>*"
INK, GREY, FAINT = "#1b1b1b", "#6f6f6f", "#c8c8c8"
BLUE, RED = "#1f5a94", "#b3432b"
DASHES = {"evidence": "-", "extrapolated": (0, (4, 2.5)), "other": (0, (1, 1.6))}


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """The figure drawn under our style, whatever the caller's own is."""

    def drawn(*args: Any) -> Figure:
        with matplotlib.rc_context(STYLE):
            return draw(*args)

    drawn.__doc__ = draw.__doc__
    return drawn


@styled
def draw_valleys(valleys: tuple[Valley, ...]) -> Figure:
    """Loss over size, one curve per budget, with its minimum."""
    figure, (axes,) = _canvas(1, (6.4, 4.3))
    shades = _shades(len(valleys))
    for k, valley in enumerate(valleys):
        colour, marker = shades[k], MARKERS[k % len(MARKERS)]
        for used, fill in ((valley.used, colour), (~valley.used, "white")):
            axes.plot(
                valley.n_params[used],
                valley.loss[used],
                marker,
                ms=4.2,
                mfc=fill,
                mec=colour,
                mew=0.9,
                ls="",
            )
        axes.plot(valley.curve_n_params, valley.curve_loss, "-", color=colour, lw=1.3)
        last = np.argmax(valley.n_params)
        note = f"{sci(valley.flops)} FLOPs" + (", refused" if valley.refused else "")
        _label(
            axes,
            note,
            valley.n_params[last],
            valley.loss[valley.n_params[last] == valley.n_params].mean(),
            colour,
        )
        if valley.minimum:
            n_params, loss = valley.minimum
            if valley.interval:
                axes.plot(
                    valley.interval, [loss, loss], "-", color=INK, lw=2.2, solid_capstyle="butt"
                )
            axes.plot(n_params, loss, marker="+", ms=9, mew=1.5, color=INK, ls="")
    axes.set_xscale("log")
    _counts(axes.xaxis)
    axes.set_xlabel("parameters N")
    axes.set_ylabel("validation loss (nats per token)")
    axes.set_title(
        "Equal compute, many sizes: + is the fitted minimum, bar its interval", loc="left"
    )
    low, high = axes.get_xlim()
    axes.set_xlim(low, high * (high / low) ** 0.16)
    return figure


@styled
def draw_allocation(allocation: Allocation) -> Figure:
    """N* and D* over compute, out to the target."""
    figure, (left, right) = _canvas(2, (8.4, 3.9))
    sides = (
        (left, allocation.n_params, allocation.minima_n_params, "parameters N*"),
        (right, allocation.n_tokens, allocation.minima_n_tokens, "tokens D*"),
    )
    for axes, curves, minima, label in sides:
        for name, curve in curves.items():
            speaks = name == allocation.speaker
            _along(axes, curve, allocation.evidence_end, BLUE if speaks else RED, speaks)
        _points(axes, minima)
        _where_evidence_ends(axes, allocation.evidence_end, allocation.target)
        axes.set_xscale("log")
        axes.set_yscale("log")
        _compute_axis(axes)
        _counts(axes.yaxis)
        axes.set_ylabel(label)
        low, high = axes.get_xlim()
        axes.set_xlim(low, high * (high / low) ** 0.22)
        _name_curves(axes, curves, allocation.speaker)
    left.set_title("How many parameters", loc="left")
    right.set_title("How many tokens", loc="left")
    return figure


@styled
def draw_frontier(frontier: Frontier) -> Figure:
    """The best loss over compute, every law and form, and the forecast."""
    figure, (axes,) = _canvas(1, (6.4, 4.3))
    axes.plot(frontier.runs_flops, frontier.runs_loss, ".", ms=3.5, color=FAINT, zorder=1)
    for name, curve in frontier.curves.items():
        speaks = name == frontier.speaker
        _along(axes, curve, frontier.evidence_end, BLUE if speaks else RED, speaks)
    _points(axes, frontier.minima)
    if frontier.interval:
        low, high = frontier.interval
        span = [[frontier.forecast - low], [high - frontier.forecast]]
        axes.errorbar(
            frontier.target,
            frontier.forecast,
            yerr=span,
            fmt="D",
            ms=5,
            color=INK,
            mfc="white",
            capsize=3,
            lw=1.2,
            zorder=5,
        )
    axes.set_xscale("log")
    _where_evidence_ends(axes, frontier.evidence_end, frontier.target)
    _compute_axis(axes)
    axes.set_ylabel("validation loss at the best size (nats per token)")
    axes.set_title("What compute buys: grey dots are runs, diamond is the forecast", loc="left")
    low, high = axes.get_xlim()
    axes.set_xlim(low, high * (high / low) ** 0.3)
    _name_curves(axes, frontier.curves, frontier.speaker)
    return figure


@styled
def draw_surface(surface: SurfaceMap) -> Figure:
    """Contours of the fitted loss, the runs on it, and the compute-optimal path."""
    figure, (axes,) = _canvas(1, (6.0, 4.9))
    levels = MaxNLocator(12).tick_values(surface.loss.min(), np.quantile(surface.loss, 0.97))
    lines = axes.contour(
        surface.n_params,
        surface.n_tokens,
        surface.loss,
        levels=levels,
        colors=GREY,
        linewidths=0.6,
        zorder=1,
    )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.clabel(lines, fmt="%.3g", fontsize=7, inline_spacing=2)
    inside = surface.path_flops <= surface.evidence_end * (1 + 1e-9)
    axes.plot(surface.path_n_params[inside], surface.path_n_tokens[inside], "-", color=BLUE, lw=2)
    axes.plot(
        surface.path_n_params[~inside],
        surface.path_n_tokens[~inside],
        ls=DASHES["extrapolated"],
        color=BLUE,
        lw=2,
    )
    on_map = (surface.path_n_params <= surface.n_params[-1]) & (
        surface.path_n_tokens <= surface.n_tokens[-1]
    )
    if on_map.any():
        last = np.flatnonzero(on_map)[-1]
        at = surface.path_n_params[last], surface.path_n_tokens[last]
        _label(axes, "best use\nof compute", *at, BLUE)
    axes.set_xlim(surface.n_params[0], surface.n_params[-1])
    axes.set_ylim(surface.n_tokens[0], surface.n_tokens[-1])
    worst = float(np.max(np.abs(surface.miss))) or 1.0
    for sign, marker, what in ((1, "^", "predicted above"), (-1, "v", "predicted below")):
        here = surface.miss >= 0 if sign > 0 else surface.miss < 0
        size = 12 + 70 * np.abs(surface.miss[here]) / worst
        axes.scatter(
            surface.runs_n_params[here],
            surface.runs_n_tokens[here],
            s=size,
            marker=marker,
            color=INK,
            linewidths=0,
            alpha=0.85,
            zorder=3,
            label=f"{what} the run",
        )
    axes.legend(loc="upper left", edgecolor="none", framealpha=0.95, fontsize=8, handletextpad=0.3)
    _counts(axes.xaxis)
    _counts(axes.yaxis)
    axes.set_xlabel("parameters N")
    axes.set_ylabel("tokens D")
    axes.set_title(
        f"Fitted loss (nats per token); larger marks miss more, at most {worst:.1%}", loc="left"
    )
    return figure


def _canvas(columns: int, inches: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=inches, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def _shades(count: int) -> list[Any]:
    return [matplotlib.colormaps["viridis"](x) for x in np.linspace(0.66, 0.02, max(count, 1))]


def _label(axes: Axes, text: str, x: float, y: float, colour: Any) -> None:
    axes.annotate(
        text, (x, y), xytext=(7, 0), textcoords="offset points", va="center", color=colour, size=8
    )


def _along(axes: Axes, curve: Curve, evidence_end: float, colour: str, speaks: bool) -> None:
    """A curve: solid inside the evidence, dashed beyond; dotted where another law speaks."""
    inside = ~(curve.flops > evidence_end * (1 + 1e-9))
    beyond = ~inside
    beyond[max(int(inside.sum()) - 1, 0)] = True  # join the two
    width = 1.8 if speaks else 1.1
    for part, dash in ((inside, "evidence"), (beyond, "extrapolated")):
        style = DASHES[dash] if speaks else DASHES["other"]
        axes.plot(curve.flops[part], curve.value[part], ls=style, color=colour, lw=width, zorder=3)
    if curve.low is not None:
        axes.fill_between(
            curve.flops, curve.low, curve.high, color=colour, alpha=0.16, lw=0, zorder=2
        )


def _points(axes: Axes, minima: Minima) -> None:
    for flops, value, interval in zip(minima.flops, minima.value, minima.intervals, strict=True):
        if interval:
            axes.plot([flops, flops], interval, "-", color=INK, lw=1.2, zorder=4)
        axes.plot(flops, value, "o", ms=4.5, color=INK, zorder=4)


def _where_evidence_ends(axes: Axes, end: float, target: float) -> None:
    axes.axvline(end, color=GREY, lw=0.7, ls=":")
    axes.annotate(
        "evidence ends",
        (end, 0.02),
        xycoords=("data", "axes fraction"),
        xytext=(-3, 0),
        textcoords="offset points",
        rotation=90,
        ha="right",
        va="bottom",
        size=7,
        color=GREY,
    )
    if target > end:
        axes.annotate(
            "extrapolated",
            (np.sqrt(end * target), 0.02),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="bottom",
            size=8,
            style="italic",
            color=GREY,
        )


def _name_curves(axes: Axes, curves: Mapping[str, Curve], speaker: str) -> None:
    """The name of every curve at its right end, one line of text apart where ends meet.

    Call it when scales and limits are final: heights are compared in points on the page.
    """
    line = 10.0
    per_point = axes.figure.dpi / 72
    ends = []
    for name, curve in curves.items():
        if np.isfinite(curve.value[-1]):
            end = (curve.flops[-1], curve.value[-1])
            ends.append((float(axes.transData.transform(end)[1]) / per_point, name, end))
    below = -np.inf
    for height, name, end in sorted(ends):
        at = max(height, below + line)
        below = at
        axes.annotate(
            name,
            end,
            xytext=(8, at - height),
            textcoords="offset points",
            va="center",
            color=BLUE if name == speaker else RED,
            size=8,
        )


def _counts(axis: Any) -> None:
    """Ticks of a log axis as people say them: 30k, 100k, 1M."""
    low, high = axis.get_view_interval()
    decades = np.log10(high / low)
    subs = (1.0,) if decades > 3 else (1.0, 3.0) if decades > 1.7 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: si(value)))
    axis.set_minor_locator(NullLocator())


def _compute_axis(axes: Axes) -> None:
    axes.set_xlabel("training compute C (FLOPs)")
    axes.xaxis.set_major_locator(LogLocator(numticks=8))
    axes.xaxis.set_minor_formatter(NullFormatter())
