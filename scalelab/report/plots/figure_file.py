"""One figure onto the disk, PNG and SVG: the only module that page.py needs matplotlib for."""

from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.figure  # slow to load: a painter does so before it knows what to draw

from scalelab.files import whole
from scalelab.registry import Registry
from scalelab.report.plots import plot_style

FIGURES = Registry(
    "figure",
    {
        "valleys": "scalelab.report.fit.plots:draw_valleys",
        "allocation": "scalelab.report.fit.plots:draw_allocation",
        "frontier": "scalelab.report.fit.plots:draw_frontier",
        "choice": "scalelab.report.fit.diagnostic_plots:draw_choice",
        "holdout": "scalelab.report.fit.diagnostic_plots:draw_holdout",
        "surface": "scalelab.report.fit.plots:draw_surface",
        "residuals": "scalelab.report.fit.diagnostic_plots:draw_residuals",
        "conventions": "scalelab.report.fit.diagnostic_plots:draw_conventions",
        "response_surface": "scalelab.report.fit.response_plots:draw_response_surface",
        "response_rules": "scalelab.report.fit.response_plots:draw_response_rules",
        "profile": "scalelab.report.fit.profile_plots:draw_profile",
        "regret": "scalelab.report.plan.plots:draw_regret",
        "course": "scalelab.report.plan.plots:draw_course",
        "compare_multiplier": "scalelab.report.comparison.plots:draw_multiplier",
        "compare_frontiers": "scalelab.report.comparison.plots:draw_frontiers",
        "backtest_error": "scalelab.report.backtest.plots:draw_errors",
        "backtest_coverage": "scalelab.report.backtest.plots:draw_coverage",
        "curation_retention": "scalelab.report.curation.plots:draw_retention",
        "mixture_shares": "scalelab.report.mixture.plots:draw_shares",
        "tokenizer_bytes": "scalelab.report.tokenizers.plots:draw_bytes_per_token",
        "tune_surface": "scalelab.report.tune.plots:draw_surface",
        "tune_optima": "scalelab.report.tune.plots:draw_optima",
        "recipe_check": "scalelab.report.recipe.plots:draw_check",
        "post_models": "scalelab.report.posttrain.plots:draw_models",
        "post_series": "scalelab.report.posttrain.plots:draw_series",
        "post_overreach": "scalelab.report.posttrain.plots:draw_overreach",
        "post_looks": "scalelab.report.posttrain.plots:draw_looks",
        "post_plot": "scalelab.report.posttrain.plots:draw_plot",
    },
    group="scalelab.figures",
)
DPI = 150


def render(title: str, data: Any, paths: list[Path]) -> None:
    """Draw one figure and write it whole under each name, in the format of its ending."""
    figure = FIGURES[title](data)
    for path in paths:
        with whole(path) as file, matplotlib.rc_context(plot_style.STYLE):
            kind = path.suffix.removeprefix(".")
            # Without a date the same study gives the same bytes.
            metadata = {"Date": None} if kind == "svg" else {"Software": None}
            figure.savefig(file, format=kind, dpi=DPI, metadata=metadata)
