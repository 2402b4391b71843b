"""Figures of the response law: what settings beside the best cost, and the best settings against scale.

Not here: the data, which the law hands over (laws/forms/response.py).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from scalelab.report.plots.plot_style import GREY, INK, canvas, counts, shades, styled
from scalelab.units import si

NEAR = np.log(1.5)  # of the other setting: runs beyond it show both costs at once
WINDOW = 0.03  # of ln L, to which the parabola is drawn
INTERVAL = 1.645  # standard errors of a 90% interval
NAMES = {"lr": "learning rate", "batch": "batch (tokens)"}


@styled
def draw_response_surface(data: Mapping[str, Any]) -> Figure:
    """Loss above the lowest of its cell over the ratio of a setting to the best one, for both settings."""
    away, above, shape = data["away"], data["above"], data["shape"]
    figure, (row,) = canvas((7.2, 3.4), columns=2, left=0.8)
    for j, (axes, setting) in enumerate(zip(row, NAMES, strict=True)):
        near = np.abs(away[:, 1 - j]) < NEAR
        axes.set_xscale("log")
        axes.plot(np.exp(away[near, j]), 100 * np.expm1(above[near]), ".", color=GREY, markersize=3)
        half = np.sqrt(2 * WINDOW / shape[f"k_{setting}"])
        along = np.linspace(-half, half, 200)
        axes.plot(np.exp(along), 100 * np.expm1(shape[f"k_{setting}"] * along**2 / 2), color=INK, linewidth=1)
        axes.set_xlabel(f"{NAMES[setting]} / best of its cell")
        counts(axes.xaxis, lambda value: f"{value:g}")
    row[0].set_ylabel("loss above the lowest of its cell, %")
    return figure


@styled
def draw_response_rules(data: Mapping[str, Any]) -> Figure:
    """Best settings of each cell with intervals over tokens, one shade for each size, and the rules."""
    n_params, n_tokens = data["N"], data["D"]
    sizes = np.unique(n_params)
    figure, (row,) = canvas((7.2, 3.4), columns=2, left=0.8)
    for axes, setting in zip(row, NAMES, strict=True):
        axes.set_xscale("log")
        axes.set_yscale("log")
        for size, colour in zip(sizes, shades(len(sizes)), strict=True):
            mine = np.flatnonzero(size == n_params)
            mine = mine[np.argsort(n_tokens[mine])]
            best = data["best"][setting][mine]
            half = np.exp(INTERVAL * data["errors"][setting][mine])
            axes.errorbar(
                n_tokens[mine],
                best,
                yerr=[best - best / half, best * half - best],
                fmt="o",
                color=colour,
                markersize=3,
                lw=0.7,
            )
            axes.plot(
                n_tokens[mine],
                data["rules"][setting][mine],
                color=colour,
                linewidth=0.9,
                label=si(float(size)),
            )
        axes.set_xlabel("training tokens D")
        axes.set_ylabel(f"best {NAMES[setting]}")
        counts(axes.xaxis)
        counts(axes.yaxis, (lambda value: f"{value:.2g}") if setting == "lr" else si)
    row[1].legend(title="N", fontsize=7, frameon=False, loc="lower right")
    return figure
