"""Figure of a curation: bytes that each stage kept, and rejected by the commonest reason.

Not here: the numbers (document.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from scalelab.data.curate.pipeline import CurationResult
from scalelab.report.plots.plot_style import BLUE, FAINT, INK, SMALL, canvas, styled


@dataclass(frozen=True)
class RetentionPlot:
    """Text behind each stage."""

    stages: Sequence[str]
    megabytes: Sequence[float]
    """Text that each stage kept, MB."""
    removed: Sequence[float]
    """Text that each stage took away, MB."""


def retention_plot(result: CurationResult) -> RetentionPlot:
    """Return what the figure of a curation draws."""
    reports = result.reports
    removed = [0.0] + [max(0, r.bytes_in - r.bytes_out) / 1e6 for r in reports[1:]]
    return RetentionPlot([r.kind for r in reports], [r.bytes_out / 1e6 for r in reports], removed)


@styled
def draw_retention(data: RetentionPlot) -> Figure:
    """Draw one bar a stage: kept, and behind it what it took away."""
    n = len(data.stages)
    left = 0.25 + 0.072 * max(map(len, data.stages))
    figure, grid = canvas((6.4, 0.76 + 0.24 * n), left=left, top=0.12)
    axes = grid[0][0]
    places = list(range(n))
    axes.barh(places, data.megabytes, color=BLUE, height=0.7)
    axes.barh(places, data.removed, left=data.megabytes, color=FAINT, height=0.7)
    for i, (kept, removed) in enumerate(zip(data.megabytes, data.removed, strict=True)):
        axes.annotate(
            f"{kept:,.3g}" + (f"  (-{removed:,.3g})" if removed >= 0.01 else ""),
            (kept + removed, i),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=SMALL,
            color=INK,
        )
    axes.set_yticks(places, data.stages)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.25 * max([*map(sum, zip(data.megabytes, data.removed, strict=True)), 1e-6]))
    axes.set_xlabel("text behind the stage, MB (grey: taken away by it)")
    return figure
