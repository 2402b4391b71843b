"""One figure onto the disk, PNG and SVG: the only module that page.py needs matplotlib for."""

from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.figure  # slow to load: a painter does so before it knows what to draw

from scalelab.files import whole
from scalelab.registry import Registry
from scalelab.report import drawing

FIGURES = Registry(
    "figure",
    {
        "valleys": "scalelab.report.figures:draw_valleys",
        "allocation": "scalelab.report.figures:draw_allocation",
        "frontier": "scalelab.report.figures:draw_frontier",
        "choice": "scalelab.report.checks:draw_choice",
        "holdout": "scalelab.report.checks:draw_holdout",
        "surface": "scalelab.report.figures:draw_surface",
        "residuals": "scalelab.report.checks:draw_residuals",
        "conventions": "scalelab.report.checks:draw_conventions",
        "regret": "scalelab.report.plan_figures:draw_regret",
        "course": "scalelab.report.plan_figures:draw_course",
        "post_models": "scalelab.report.posttrain_figures:draw_models",
        "post_series": "scalelab.report.posttrain_figures:draw_series",
        "post_overreach": "scalelab.report.posttrain_figures:draw_overreach",
        "post_looks": "scalelab.report.posttrain_figures:draw_looks",
        "post_plot": "scalelab.report.posttrain_figures:draw_plot",
    },
    group="scalelab.figures",
)
DPI = 150


def paint(title: str, data: Any, paths: list[Path]) -> None:
    """Draw one figure and write it whole under each name, in the format of its ending."""
    figure = FIGURES[title](data)
    for path in paths:
        with whole(path) as file, matplotlib.rc_context(drawing.STYLE):
            kind = path.suffix.removeprefix(".")
            # Without a date the same study gives the same bytes.
            metadata = {"Date": None} if kind == "svg" else {"Software": None}
            figure.savefig(file, format=kind, dpi=DPI, metadata=metadata)
