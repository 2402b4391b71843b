"""Figure of profile likelihoods: how much worse the best fit becomes as one constant is held away from it.

Not here: the profiles, which the law hands over (laws/forms/softmax_profile.py).
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scalelab.laws.observations import Array
from scalelab.report.plots.plot_style import (
    BLUE,
    DASHES,
    FAINT,
    GREY,
    INK,
    SMALL,
    canvas,
    counts,
    log_limits,
    styled,
)

HEIGHT = 3.0  # times the threshold, up to which the lines are drawn
BETWEEN = 12  # points of a line between two values that were searched
LABELS = {"E": "floor E (nats per token)", "k": "softness k"}
LOGARITHMIC = 4.0  # ratio of the ends of the axis above which it is logarithmic


@styled
def draw_profile(data: Mapping[str, Any]) -> Figure:
    """The likelihood ratio over each constant, of the runs with the prior and alone."""
    panels = data["panels"]
    figure, (row,) = canvas((3.4 * len(panels) + 0.4, 3.2), columns=len(panels), gap=0.35, sharey=True)
    for axes, panel in zip(row, panels, strict=True):
        _draw_panel(axes, panel, data["level"])
    row[0].set_ylabel("likelihood ratio T")
    row[0].set_title("What the runs say of single constants [fitted]")
    lines = row[-1].get_lines()
    row[-1].legend(
        [line for line in lines if line.get_gid()],
        [line.get_gid() for line in lines if line.get_gid()],
        fontsize=SMALL,
        frameon=False,
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=2,
        borderaxespad=0,
    )
    return figure


def _draw_panel(axes: Axes, panel: Mapping[str, Any], level: float) -> None:
    """One constant: both lines, the threshold, the fit, and what the runs alone allow."""
    threshold = panel["threshold"]
    axes.set_ylim(0, HEIGHT * threshold)
    _set_range(axes, panel)
    axes.axhline(threshold, color=FAINT, lw=0.9, zorder=0)
    axes.annotate(
        f"{level:.0%}",
        (1, threshold),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 2),
        textcoords="offset points",
        ha="right",
        size=SMALL,
        color=GREY,
    )
    for end in panel["interval"]:
        if end is not None:
            axes.plot([end, end], [0, threshold], color=GREY, lw=0.9, ls=DASHES["other"])
    axes.plot(*_smooth(*panel["penalised"]), color=BLUE, lw=1.6, gid="with the prior")
    axes.plot(*_smooth(*panel["alone"]), color=INK, lw=1.3, ls=DASHES["extrapolated"], gid="runs alone")
    axes.plot(panel["best"], 0, "D", ms=5.5, mec=INK, mfc="white", clip_on=False, zorder=6)
    axes.set_xlabel(LABELS.get(panel["name"], panel["name"]))


def _smooth(value: Array, statistic: Array) -> tuple[Array, Array]:
    """More points between those that were searched: the root of T is nearly straight on either side."""
    place = np.log(value)
    root = np.sqrt(statistic) * np.where(np.arange(len(value)) < np.argmin(statistic), -1, 1)
    dense = np.unique(np.concatenate([np.linspace(a, b, BETWEEN) for a, b in pairwise(place)]))
    return np.exp(dense), np.interp(dense, place, root) ** 2


def _set_range(axes: Axes, panel: Mapping[str, Any]) -> None:
    """Limits around every value at which one of the lines is in sight, and the scale that suits them."""
    seen = [np.array([panel["best"]])]
    for value, statistic in (panel["alone"], panel["penalised"]):
        inside = statistic <= axes.get_ylim()[1]
        near = inside | np.append(inside[1:], False) | np.append(False, inside[:-1])
        seen.append(value[near])
    values = np.concatenate(seen)
    low, high = float(values.min()), float(values.max())
    if low > 0 and high > LOGARITHMIC * low:
        axes.set_xscale("log")
        axes.set_xlim(log_limits(low, high))
        counts(axes.xaxis, lambda value: f"{value:g}")
    else:
        room = 0.03 * (high - low) or 0.01 * abs(high) or 0.01
        axes.set_xlim(low - room, high + room)
