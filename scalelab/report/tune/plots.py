"""Figures of a tuning: loss against each field, and the best values against scale.

Not here: the numbers (page.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from scalelab.laws.observations import Array
from scalelab.report.plots.plot_style import BLUE, FAINT, INK, MARKERS, SMALL, canvas, counts, shades, styled
from scalelab.units import si


@dataclass(frozen=True, eq=False)
class SurfacePlot:
    """Trials of every cell along every field."""

    fields: Sequence[str]
    logs: Sequence[bool]
    """Whether each field is on a log scale."""
    panels: Sequence[tuple[str, Array, Sequence[tuple[Array, Any, Any, Any]]]]
    """Title and losses of a cell; for each field values of its trials, values and losses of the surface, and ends of
    the best value, the last three None without an optimum."""


@dataclass(frozen=True, eq=False)
class OptimaPlot:
    """Best values of the cells that have some."""

    n_params: Array
    n_tokens: Array
    best: Mapping[str, Array]
    ends: Mapping[str, Array]
    """Both ends of each best value, shape (cells, 2)."""
    rules: Mapping[str, Mapping[float, Sequence[float]]]
    """By field and size: the rule at each token count."""


@styled
def draw_surface(data: SurfacePlot) -> Figure:
    """Draw one row a cell and one column a field."""
    rows, columns = len(data.panels), len(data.fields)
    figure, grid = canvas((1.0 + 3.4 * columns, 0.7 + 1.9 * rows), rows=rows, columns=columns, row_gap=0.42)
    for (title, loss, fields), line in zip(data.panels, grid, strict=True):
        # A trial far above the others would hide the valley; its place is marked at the upper edge.
        top = loss.min() + 3 * (np.median(loss) - loss.min()) + 1e-9
        for j, axes in enumerate(line):
            x, along, curve, ends = fields[j]
            if data.logs[j]:
                axes.set_xscale("log")
            if along is not None:
                axes.axvspan(*ends, color=FAINT, alpha=0.5, lw=0)
                axes.plot(along, curve, color=INK, lw=1)
            near = loss <= top
            axes.plot(x[near], loss[near], "o", ms=3.5, color=BLUE)
            axes.plot(x[~near], np.full((~near).sum(), top), "^", ms=4, color=BLUE, clip_on=False)
            axes.set_ylim(loss.min() - 0.06 * (top - loss.min()), top)
            if data.logs[j]:
                counts(axes.xaxis, lambda value: f"{value:.2g}")
        line[0].set_title(title)
        line[0].set_ylabel("loss, nats per token")
    for name, axes in zip(data.fields, grid[-1], strict=True):
        axes.set_xlabel(name)
    return figure


@styled
def draw_optima(data: OptimaPlot) -> Figure:
    """Draw best values with intervals against tokens, one shade a size, and the rule."""
    sizes = np.unique(data.n_params)
    figure, (row,) = canvas((1.0 + 3.4 * len(data.best), 3.2), columns=len(data.best))
    for axes, name in zip(row, data.best, strict=True):
        axes.set_xscale("log")
        if (data.ends[name] > 0).all():
            axes.set_yscale("log")
        for k, (size, colour) in enumerate(zip(sizes, shades(len(sizes)), strict=True)):
            mine = np.flatnonzero(data.n_params == size)
            best, ends = data.best[name][mine], data.ends[name][mine]
            error = [best - ends[:, 0], ends[:, 1] - best]
            axes.errorbar(
                data.n_tokens[mine] * (1 + 0.02 * k),
                best,
                yerr=error,
                fmt=MARKERS[k % len(MARKERS)],
                ms=4,
                color=colour,
                lw=0.9,
                capsize=2,
                label=f"N {si(float(size))}",
            )
            if name in data.rules:
                axes.plot(np.unique(data.n_tokens), data.rules[name][size], color=colour, lw=0.9)
        axes.set_xlabel("training tokens D")
        axes.set_ylabel(f"best {name}")
        counts(axes.xaxis)
        if axes.get_yscale() == "log":
            counts(axes.yaxis, lambda value: f"{value:.2g}")
    row[0].legend(fontsize=SMALL, frameon=False)
    return figure
