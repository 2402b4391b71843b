"""The figures of a backtest, drawn from plot_data.py alone."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from scalelab.report.backtest.plot_data import CoverageByLevel, ErrorsByReach
from scalelab.report.fit.plot_data import percent
from scalelab.report.plots.plot_style import (
    DASHES,
    GREY,
    LineLabel,
    canvas,
    counts,
    law_style,
    log_limits,
    name_ends,
    room,
    styled,
)
from scalelab.units import multiple


@styled
def draw_errors(data: ErrorsByReach) -> Figure:
    """Mean error of the loss against the reach, one line a method."""
    figure, ((axes,),) = canvas((5.8, 4.0))
    axes.set_xscale("log")
    axes.set_yscale("log")
    names = [each.name for each in data.methods]
    reach = np.concatenate([each.reach for each in data.methods])
    error = np.concatenate([each.error for each in data.methods])
    axes.set_xlim(log_limits(reach.min(), reach.max(), right=room(axes, names, pad=30)))
    axes.set_ylim(log_limits(max(error.min(), 1e-5), error.max(), left=0.05, right=0.05))
    ends = []
    for each in data.methods:
        colour, marker = law_style(data.order, each.name)
        axes.plot(each.reach, each.error, marker=marker, ms=4.5, color=colour, lw=1.3)
        ends.append(LineLabel(each.reach[-1], each.error[-1], each.name, colour))
    counts(axes.xaxis, multiple, last=reach.max() * 1.1)
    counts(axes.yaxis, lambda value: percent(float(f"{value:.2g}")))
    axes.set_xlabel("reach: compute of the run over the largest in evidence")
    axes.set_ylabel("mean |ln error| of the loss, balanced over families")
    axes.set_title(f"Error against reach [extrapolated, runs {data.kind}]")
    name_ends(axes, ends)
    return figure


@styled
def draw_coverage(data: CoverageByLevel) -> Figure:
    """Actual against nominal coverage, one line a method, and the range of exact intervals.

    Dashed: constants made without the family of each case.
    """
    figure, ((axes,),) = canvas((5.8, 4.2))
    labels = [each.label for each in data.methods]
    low, high = data.level.min() - 0.03, data.level.max() + 0.01
    beside = room(axes, labels, pad=30)
    axes.set_xlim(low, low + (high - low) / (1 - beside))
    axes.set_ylim(0, 1.02)
    axes.fill_between(data.level, data.exact_low, data.exact_high, color="#ececec", lw=0, zorder=0)
    axes.plot(data.level, data.level, "-", color=GREY, lw=0.8, zorder=1)
    ends = [LineLabel(data.level[-1], data.level[-1], "exact", GREY)]
    for each in data.methods:
        colour, marker = law_style(data.order, each.name)
        dashes = DASHES["extrapolated" if each.left_out else "evidence"]
        axes.plot(each.level, each.covered, marker=marker, ms=4.5, color=colour, lw=1.3, ls=dashes)
        ends.append(LineLabel(each.level[-1], each.covered[-1], each.label, colour))
    axes.set_xticks(data.level)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    axes.set_xlabel("nominal level of the interval")
    axes.set_ylabel("share of actual losses inside, balanced")
    axes.set_title(f"Nominal against actual coverage [extrapolated, runs {data.kind}]")
    name_ends(axes, ends)
    return figure
