"""One figure onto the disk, PNG and SVG: the only module that page.py needs matplotlib for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from scalelab.files import whole
from scalelab.report import checks, drawing, figures, plan_figures, posttrain_figures

DRAW: dict[str, Callable[[Any], Figure]] = {
    "valleys": figures.draw_valleys,
    "allocation": figures.draw_allocation,
    "frontier": figures.draw_frontier,
    "choice": checks.draw_choice,
    "holdout": checks.draw_holdout,
    "surface": figures.draw_surface,
    "residuals": checks.draw_residuals,
    "conventions": checks.draw_conventions,
    "regret": plan_figures.draw_regret,
    "course": plan_figures.draw_course,
    "post_models": posttrain_figures.draw_models,
    "post_series": posttrain_figures.draw_series,
    "post_overreach": posttrain_figures.draw_overreach,
    "post_looks": posttrain_figures.draw_looks,
}
DPI = 150


def paint(title: str, data: Any, paths: list[Path]) -> None:
    """Draw one figure and write it whole under each name, in the format of its ending."""
    figure = DRAW[title](data)
    for path in paths:
        with whole(path) as file, matplotlib.rc_context(drawing.STYLE):
            kind = path.suffix.removeprefix(".")
            # Without a date the same study gives the same bytes.
            metadata = {"Date": None} if kind == "svg" else {"Software": None}
            figure.savefig(file, format=kind, dpi=DPI, metadata=metadata)
