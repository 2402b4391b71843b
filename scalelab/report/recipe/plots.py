"""Figures of recipe checks: activations against width, loss against the rate.

Not here: the numbers (recipe_check/), where the figures stand (document.py).
"""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from scalelab.recipe_check.base import CheckCurve, CheckPlot
from scalelab.report.plots.plot_style import (
    BLUE,
    FAINT,
    INK,
    MARKERS,
    SMALL,
    canvas,
    counts,
    log_limits,
    shades,
    styled,
)

COLUMNS = 2


@styled
def draw_check(data: CheckPlot) -> Figure:
    """Draw the values of every seed and their mean, one panel a title, two in a row."""
    panels: dict[str, list[CheckCurve]] = {}
    for curve in data.curves:
        panels.setdefault(curve.panel, []).append(curve)
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    size = (0.9 + 2.9 * columns, 0.8 + 2.1 * rows)
    figure, grid = canvas(size, rows=rows, columns=columns, row_gap=0.78, sharex=True)
    places = list(grid.flat)
    for axes, (title, curves) in zip(places, panels.items(), strict=False):
        _panel(axes, title, curves, data)
    for axes in places[len(panels) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel(data.y_label)
    return figure


def _panel(axes: Axes, title: str, curves: list[CheckCurve], data: CheckPlot) -> None:
    """One panel: a mean line and the seeds of each curve, the recipe's own x, the lowest point."""
    every_x = np.array([x for curve in data.curves for x in curve.x])
    axes.set_xscale("log")
    axes.set_xlim(*log_limits(every_x.min(), every_x.max(), left=0.06, right=0.06))
    if data.log_y:
        axes.set_yscale("log")
    if data.own is not None:
        axes.axvline(data.own, color=FAINT, lw=1, zorder=0)
    colours = [BLUE] if len(curves) == 1 else shades(len(curves))
    for k, (curve, colour) in enumerate(zip(curves, colours, strict=True)):
        y = np.array(curve.y)
        mean = np.exp(np.nanmean(np.log(y), axis=1)) if data.log_y else np.nanmean(y, axis=1)
        axes.plot(curve.x, y, MARKERS[k % len(MARKERS)], ms=3.5, color=colour)
        axes.plot(curve.x, mean, color=colour, lw=1, label=curve.name or None)
        if curve.best is not None:
            axes.axvline(curve.best, color=INK, lw=0.9, ls=(0, (4, 2.5)), zorder=0)
    axes.set_title(title)
    axes.tick_params(labelbottom=True)
    axes.set_xlabel(data.x_label)
    axes.xaxis.set_major_locator(FixedLocator(np.unique(every_x)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    if data.log_y:
        counts(axes.yaxis, lambda value: f"{value:g}")
    if any(curve.name for curve in curves):
        axes.legend(fontsize=SMALL, frameon=False)
