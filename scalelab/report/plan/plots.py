"""The figures of a plan: the compute that wrong sizes waste, and the loss of its final run.

regret:
    above   share of the compute wasted by each size, as every law with a valley predicts it; the
            curve that the plan quotes is centred on the N* of the primary law
    below   N* of each law with its interval, on the same axis

course: training and validation loss over tokens, the frozen band, the forecast at the end

Not here: how the waste is computed (plan/choose/allocate.py), the outcome (report/outcome/).
"""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from scalelab.report.outcome.comparison import LossTrajectory
from scalelab.report.plan.page import WORST, RegretPlot
from scalelab.report.plots.plot_style import (
    BLUE,
    DASHES,
    FAINT,
    GREY,
    INK,
    RED,
    SMALL,
    LineLabel,
    canvas,
    counts,
    law_style,
    log_limits,
    name_ends,
    room,
    styled,
)
from scalelab.units import multiple, sci, si


@styled
def draw_regret(data: RegretPlot) -> Figure:
    """Draw the wasted compute over size above, and the optimum of each law below."""
    figure, axes = canvas(
        (5.8, 4.6), rows=2, sharex=True, height_ratios=(3.2, 1.0), left=0.62, top=0.32, row_gap=0.3
    )
    above, below = axes[0][0], axes[1][0]
    above.set_xscale("log")
    names = [_law_label(data, law) for law in data.wasted] + [_best(row) for row in data.optima]
    beside = room(above, names, pad=26)
    above.set_xlim(log_limits(data.n_params[0], data.n_params[-1], right=beside))
    above.set_ylim(0, WORST)
    if data.near:
        above.axvspan(*data.near, color=FAINT, alpha=0.45, lw=0, zorder=0)
        below.axvspan(*data.near, color=FAINT, alpha=0.45, lw=0, zorder=0)
    ends = []
    for law, wasted in data.wasted.items():
        colour, _ = law_style(data.laws, law)
        quoted = law == data.quoted_law
        inside = wasted <= WORST
        above.plot(
            data.n_params[inside],
            wasted[inside],
            ls="-" if quoted else (0, (1, 1.4)),
            lw=2 if quoted else 1.4,
            color=colour,
        )
        last = np.flatnonzero(inside)[-1]
        ends.append(LineLabel(data.n_params[last], wasted[last], _law_label(data, law), colour))
    above.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    above.set_ylabel("compute wasted by a size")
    above.set_title(
        f"Cost of a wrong size at {sci(data.flops)} FLOPs [{data.kind}, {multiple(data.reach)} the evidence]"
    )
    _mark(above, data)
    _optima(below, data)
    counts(below.xaxis, si, data.n_params[-1])
    below.set_xlabel("parameters N")
    name_ends(above, ends)
    return figure


@styled
def draw_course(data: LossTrajectory) -> Figure:
    """Draw the loss of a final run during training and its frozen forecast."""
    figure, ((axes,),) = canvas((5.8, 3.8), right=1.25)
    seen = [loss for _, loss in data.measured] + [data.predicted, *(data.quoted or ())]
    seen += [] if data.loss is None else [data.loss]
    if data.training:
        axes.plot(*zip(*data.training, strict=True), color="#a8a8a8", lw=0.9, zorder=1)
        seen += [loss for n_tokens, loss in data.training if n_tokens > 0.5 * data.n_tokens]
        _name(axes, "training", data.training[2 * len(data.training) // 3], GREY, below=True)
    if data.band is not None:
        x = np.array(data.band.share) * data.n_tokens
        axes.fill_between(x, data.band.low, data.band.high, color=BLUE, alpha=0.15, lw=0)
        axes.plot(x, data.band.expected, color=BLUE, lw=1.2, ls=DASHES["extrapolated"])
        middle = len(x) // 3
        seen += [data.band.high[middle], min(data.band.low)]
        _name(axes, "forecast band", (x[middle], data.band.high[middle]), BLUE)
    if data.measured:
        axes.plot(*zip(*data.measured, strict=True), "o", ms=4.5, color=INK, zorder=4)
        _name(axes, "validation", data.measured[len(data.measured) // 2], INK)
    end = data.n_tokens
    if data.quoted is not None:
        axes.plot((end, end), data.quoted, color=BLUE, lw=3, zorder=3, solid_capstyle="butt")
    axes.plot(end, data.predicted, "D", ms=6, mfc="white", mec=BLUE, mew=1.5, zorder=5)
    ends = [LineLabel(end, data.predicted, f"forecast {data.predicted:.4f}", BLUE)]
    if data.loss is not None:
        colour = RED if data.held is False else INK
        axes.plot(end, data.loss, "o", ms=5.5, color=colour, zorder=6)
        ends.append(LineLabel(end, data.loss, f"measured {data.loss:.4f}", colour))
    low, high = min(seen), max(seen)
    axes.set_ylim(low - 0.06 * (high - low), high + 0.08 * (high - low))
    axes.set_xlim(0, 1.01 * end)
    axes.xaxis.set_major_formatter(lambda value, _: si(value) if value else "0")
    axes.set_xlabel("training tokens D")
    axes.set_ylabel("loss (nats per token)")
    axes.set_title(f"Forecast [{multiple(data.reach)} extrapolated] and measured loss")
    name_ends(axes, ends)
    return figure


def _name(axes: Any, text: str, at: tuple[float, float], colour: str, below: bool = False) -> None:
    """Write a label beside a point.

    Args:
        axes: Axes of the plot.
        text: The label.
        at: The point, in data coordinates.
        colour: Colour of the text.
        below: Whether the label is to the lower left; otherwise to the upper right.
    """
    axes.annotate(
        text,
        at,
        xytext=(-5, -5) if below else (5, 4),
        textcoords="offset points",
        ha="right" if below else "left",
        va="top" if below else "bottom",
        size=SMALL,
        color=colour,
    )


def _law_label(data: RegretPlot, law: str) -> str:
    return f"{law}\n(quoted)" if law == data.quoted_law else law


def _best(row: tuple[str, float, Any, bool]) -> str:
    law, best, _, is_counted = row
    return f"{law}{'' if is_counted else ' (refuted)'}: {si(best)}"


def _mark(axes: Any, data: RegretPlot) -> None:
    """Label the near-optimal range and mark the model to be trained."""
    if data.near:
        low, high = data.near
        axes.text(
            float(np.sqrt(low * high)),
            0.97,
            f"wastes at most {data.bound:.0%}:\n{si(low)} to {si(high)}",
            transform=axes.get_xaxis_transform(),
            ha="center",
            va="top",
            size=SMALL,
            color=INK,
        )
    if data.chosen is not None:
        axes.axvline(data.chosen, ymax=0.76, color=INK, lw=1.0, ls=(0, (4, 2.5)))
        axes.annotate(
            f"to train: {si(data.chosen)}",
            (data.chosen, 0.72),
            xycoords=axes.get_xaxis_transform(),
            xytext=(4, 0),
            textcoords="offset points",
            size=SMALL,
            color=INK,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.85},
        )


def _optima(axes: Any, data: RegretPlot) -> None:
    """Draw N* and interval of each law, and the quoted interval of the primary law as a band behind them."""
    rows = list(data.optima)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    if data.quoted is not None:
        axes.plot(data.quoted, (0, 0), color=BLUE, lw=7, alpha=0.25, solid_capstyle="butt")
    for k, (law, best, interval, is_counted) in enumerate(rows):
        colour, marker = law_style(data.laws, law)
        colour = colour if is_counted else GREY
        if interval is not None:
            axes.plot(interval, (k, k), color=colour, lw=1.4)
        axes.plot(best, k, marker, color=colour, ms=5)
        axes.annotate(
            _best(rows[k]),
            (data.n_params[-1], k),
            xytext=(9, 0),
            textcoords="offset points",
            va="center",
            size=SMALL,
            color=colour,
        )
    axes.set_yticks([])
    axes.set_ylabel(f"N*, {data.level:.0%}\ninterval")
    axes.spines["left"].set_visible(False)
