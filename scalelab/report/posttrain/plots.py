"""The figures of a post-training.

models      accuracy and gold of every model on the first test set, with standard errors
series      accuracy and gold against the examples of a series of stages
overreach   proxy and gold against the distance from the start model: where gold turns down
looks       gold on held-out prompts during the stages
plot        lines that a stage describes

Not here: the numbers (results.py).
"""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scalelab.posttrain.display import PlotLine, StagePlot
from scalelab.report.plots.plot_style import (
    BLUE,
    FAINT,
    GREY,
    INK,
    LAWS,
    MARKERS,
    RED,
    SMALL,
    LineLabel,
    canvas,
    counts,
    name_ends,
    room,
    styled,
)
from scalelab.report.posttrain.results import PosttrainResults


@styled
def draw_models(data: PosttrainResults) -> Figure:
    """Draw accuracy on the left and gold on the right, one line per model."""
    models = [m for m in data.models if m.sets]
    names = [m.model for m in models]
    height = 0.95 + 0.24 * len(models)
    widest = max(map(len, names)) * 0.075 + 0.25
    figure, axes = canvas((6.0, height), columns=2, left=widest, gap=0.35, sharey=True)
    place = np.arange(len(models))[::-1]
    for axis, what, colour in zip(axes[0], ("accuracy", "gold"), (BLUE, RED), strict=True):
        for y, model in zip(place, models, strict=True):
            first = next(iter(model.sets.values()))
            value = getattr(first, what)
            if value is None:
                continue
            error = getattr(first, f"{what}_se") or np.nan  # no bar where there is none
            axis.errorbar(value, y, xerr=1.96 * error, fmt="o", ms=4, color=colour, capsize=2, lw=1)
        axis.set_xlabel(f"{what} [measured], bars 95%")
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.grid(axis="x", color=FAINT, lw=0.5)
        axis.set_axisbelow(True)
    axes[0][0].set_yticks(place, names)
    axes[0][0].set_ylim(-0.6, len(models) - 0.4)
    axes[0][0].set_title("Held-out prompts, greedy answers")
    return figure


def draw_series(data: PosttrainResults) -> Figure:
    """Draw accuracy and gold against the amount in which the models differ."""
    lines = []
    for what in ("accuracy", "gold"):
        known = [(x, grade) for x, grade in data.series if getattr(grade, what) is not None]
        values = [getattr(grade, what) for _, grade in known]
        errors = [getattr(grade, f"{what}_se") for _, grade in known]
        lines.append(PlotLine(what, [x for x, _ in known], values, errors))
    title, y_label = "Does more data help?", "on held-out prompts [measured]"
    return draw_plot(StagePlot("series", title, data.series_of, y_label, lines, log_x=True))


@styled
def draw_plot(plot: StagePlot) -> Figure:
    """Draw lines with their errors, each with its colour and marker."""
    figure, ((axes,),) = canvas((4.6, 3.0))
    for k, line in enumerate(plot.lines):
        if not line.x:
            continue
        error = None if line.error is None else [1.96 * (e or np.nan) for e in line.error]
        axes.errorbar(
            line.x,
            line.y,
            yerr=error,
            color=LAWS[k % len(LAWS)],
            marker=MARKERS[k % len(MARKERS)],
            ms=4,
            capsize=2,
            lw=1.2,
            label=line.name,
        )
    if plot.log_x:
        axes.set_xscale("log")
        counts(axes.xaxis)
    axes.set_xlabel(plot.x_label)
    axes.set_ylabel(plot.y_label)
    axes.set_title(plot.title)
    axes.legend(frameon=False, fontsize=SMALL)
    return figure


@styled
def draw_overreach(data: PosttrainResults) -> Figure:
    """Draw proxy and gold against the square root of KL, one panel per curve."""
    curves = data.curves
    figure, axes = canvas((1.0 + 2.9 * len(curves), 3.2), columns=len(curves), gap=0.6)
    for axis, curve in zip(axes[0], curves, strict=True):
        # An estimate of a KL near zero may be negative; it is drawn at zero.
        x = np.sqrt(np.maximum(curve.kl, 0.0))
        order = np.argsort(x)
        for values, colour, marker, name in (
            (curve.proxy, GREY, "s", "proxy"),
            (curve.gold, RED, "o", "gold"),
        ):
            y = np.asarray(values)[order]
            many = len(x) > 20
            axis.plot(
                x[order],
                y,
                color=colour,
                marker=marker,
                ms=2.5 if many else 4,
                lw=0 if many else 1.3,
                alpha=0.55 if many else 1,
                label=name,
            )
            if many:
                axis.plot(*smooth(x[order], y), color=colour, lw=1.6)
        axis.axhline(0, color=FAINT, lw=0.6, zorder=0)
        axis.set_title(curve.name)
        axis.xaxis.set_major_locator(MaxNLocator(5))
    figure.supxlabel("distance from the start model: sqrt(KL), sqrt(nats)", fontsize="medium")
    axes[0][0].set_ylabel("points [measured]")
    axes[0][0].legend(frameon=False, fontsize=SMALL)
    return figure


@styled
def draw_looks(data: PosttrainResults) -> Figure:
    """Draw gold against the share of each stage that is done."""
    what = "held_out.gold" if _is_gold(data) else "held_out.accuracy"
    points_of = {
        name: [(e["step"], e[what]) for e in events]
        for name, events in data.journals.items()
        if len(events) > 1 and what in events[0]
    }
    figure, ((axes,),) = canvas((5.6, 3.2))
    beside = room(axes, list(points_of), pad=34)
    axes.set_xlim(0, 1 / (1 - beside))
    ends = []
    for k, (name, points) in enumerate(points_of.items()):
        steps, values = np.array(points, float).T
        colour = LAWS[k % len(LAWS)]
        share = steps / steps.max()
        axes.plot(share, values, color=colour, marker=MARKERS[k % len(MARKERS)], ms=3.5, lw=1.1)
        ends.append(LineLabel(share[-1], values[-1], name, colour))
    axes.set_xlabel("share of the stage that is done")
    measure = "gold" if _is_gold(data) else "accuracy"
    axes.set_ylabel(f"{measure} of held-out answers [measured]")
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.set_title("During the stages", color=INK)
    name_ends(axes, ends)
    return figure


def _is_gold(data: PosttrainResults) -> bool:
    """Return whether the evaluations during the stages have a gold score, not only accuracy."""
    return any("held_out.gold" in e for events in data.journals.values() for e in events[:1])


def smooth(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return moving means over a tenth of the points, to guide the eye."""
    half = max(1, len(x) // 20)
    low = np.maximum(np.arange(len(x)) - half, 0)
    high = np.minimum(np.arange(len(x)) + half + 1, len(x))
    sums = [np.concatenate([[0.0], np.cumsum(v)]) for v in (x, y)]
    mean = [(s[high] - s[low]) / (high - low) for s in sums]
    return mean[0], mean[1]
