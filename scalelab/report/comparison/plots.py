"""The figures of a comparison, drawn from plot_data.py alone."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scalelab.laws.observations import Array
from scalelab.report.comparison.plot_data import MultiplierCurve, RecipeFrontiers
from scalelab.report.plots.plot_style import (
    BLUE,
    DASHES,
    FAINT,
    GREY,
    INK,
    RED,
    LineLabel,
    canvas,
    compute_axis,
    counts,
    heavy,
    log_limits,
    name_ends,
    room,
    styled,
)
from scalelab.units import multiple


@styled
def draw_multiplier(data: MultiplierCurve) -> Figure:
    """Compute multiplier by compute, with its interval and what each rung says alone."""
    figure, ((axes,),) = canvas((5.8, 3.8))
    axes.set_xscale("log")
    axes.set_yscale("log")
    inside = data.flops <= data.evidence_end * (1 + 1e-9)
    shown = [data.multiplier, data.low[inside], data.high[inside], data.rung_low, data.rung_high, [1.0]]
    low, high = (float(end(np.concatenate(shown))) for end in (np.nanmin, np.nanmax))
    axes.set_xlim(log_limits(data.flops[0], data.flops[-1]))
    axes.set_ylim(log_limits(low, high, left=0.08, right=0.08))
    axes.fill_between(data.flops, data.low, data.high, color="#dbe6f1", lw=0, zorder=0)
    _in_two(axes, data.flops, data.multiplier, data.evidence_end, BLUE)
    axes.axhline(1.0, color=GREY, lw=0.8, zorder=1)
    if data.min_gain != 1:
        axes.axhline(data.min_gain, color=RED, lw=0.8, ls=DASHES["other"], zorder=1)
    if len(data.rung_flops):
        errors = np.array([data.rung_multiplier - data.rung_low, data.rung_high - data.rung_multiplier])
        axes.errorbar(
            data.rung_flops,
            data.rung_multiplier,
            yerr=np.maximum(errors, 0),
            fmt="o",
            ms=4.5,
            color=INK,
            elinewidth=0.8,
            zorder=3,
        )
    axes.axvline(data.evidence_end, color=FAINT, lw=0.8, zorder=0)
    compute_axis(axes, data.flops[-1])
    counts(axes.yaxis, multiple)
    axes.set_ylabel("compute multiplier")
    axes.set_title(
        f"Compute of {_short(data.baseline)} over that of {_short(data.name)} [fitted, runs {data.kind}]"
    )
    return figure


@styled
def draw_frontiers(data: RecipeFrontiers) -> Figure:
    """Lowest loss by compute of both recipes, and the runs."""
    figure, ((axes,),) = canvas((5.8, 3.8))
    axes.set_xscale("log")
    names = [_short(name) for name in data.names]
    axes.set_xlim(log_limits(data.flops[0], data.flops[-1], right=room(axes, names, pad=30)))
    inside = data.flops[0] / 1.5
    losses = np.concatenate(
        [
            *data.loss,
            *(loss[flops >= inside] for flops, loss in zip(data.runs_flops, data.runs_loss, strict=True)),
        ]
    )
    low, high = float(losses.min()), float(losses.max())
    axes.set_ylim(low - 0.06 * (high - low), high + 0.04 * (high - low))
    ends = []
    for k, (colour, marker) in enumerate(((INK, "o"), (BLUE, "^"))):
        axes.plot(
            data.runs_flops[k],
            data.runs_loss[k],
            marker,
            ms=3.5,
            mfc="white",
            mec=colour,
            mew=0.6,
            zorder=1,
            rasterized=heavy(data.runs_loss[k]),
        )
        _in_two(axes, data.flops, data.loss[k], data.evidence_end, colour)
        ends.append(LineLabel(data.flops[-1], data.loss[k][-1], names[k], colour))
    axes.axvline(data.evidence_end, color=FAINT, lw=0.8, zorder=0)
    compute_axis(axes, data.flops[-1])
    axes.set_ylabel(f"loss at the best size ({data.unit})")
    axes.set_title(f"What compute buys [lines fitted, runs {data.kind}]")
    name_ends(axes, ends)
    return figure


def _in_two(axes: Axes, x: Array, y: Array, end: float, colour: str) -> None:
    """A line that is solid within the evidence and dashed beyond it."""
    inside = x <= end * (1 + 1e-9)
    beyond = ~inside
    beyond[max(int(inside.sum()) - 1, 0) :] = True
    for part, dash in ((inside, "evidence"), (beyond, "extrapolated")):
        axes.plot(x[part], y[part], ls=DASHES[dash], color=colour, lw=1.8, zorder=2)


def _short(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:22]}..."
