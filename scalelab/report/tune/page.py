"""The report of a tuning, written: page, figures, numbers, and the tuned recipe.

    OUT/
      README.md       the page
      tune.json       schema 1
      recipe.yaml     the sweep file with the rules, where a field has one
      tune_surface.*  loss against each field, one panel a cell
      tune_optima.*   best values against tokens, one line a size

Not here: what the page says (document.py).
"""

from pathlib import Path
from typing import Any

import numpy as np

from scalelab.files import make_dir, write_json, write_text, writing
from scalelab.launch.tune_result import TunedCell, TuneResult, header_of
from scalelab.laws.tuned_settings import LEVEL, SettingRule, SettingsOptimum
from scalelab.records.provenance import code_version
from scalelab.report.document import Facts, Figure, Heading
from scalelab.report.plots.render_workers import draw_figures
from scalelab.report.render.markdown import render_markdown
from scalelab.report.tune.document import natural, result_document
from scalelab.report.tune.plots import OptimaPlot, SurfacePlot

CAPTIONS = {
    "tune_surface": "Loss of every trial [measured] and the surface through them [fitted], the other fields at their "
    f"best values. Band: {LEVEL:.0%} interval of the best value.",
    "tune_optima": f"Best values with {LEVEL:.0%} intervals, and the rule through them [fitted].",
}
RECIPE = "recipe.yaml"


def record(result: TuneResult) -> dict[str, Any]:
    """Return a tuning as JSON types. Losses of trials are measured, all else is fitted."""
    return {
        "schema": 1,
        "tuning": result.file.name,
        "digest": result.file.digest,
        "param_count": result.file.recipe.param_count,
        "level": LEVEL,
        "cells": [_cell(result, c) for c in result.cells],
        "rules": {
            name: {"problem": rule} if isinstance(rule, str) else _rule(rule)
            for name, rule in result.rules.items()
        },
        "written": result.written_rules(),
    }


def _cell(result: TuneResult, c: TunedCell) -> dict[str, Any]:
    fields, optimum = result.file.fields, c.optimum
    found: dict[str, Any] = {
        "n_params": c.cell.n_params,
        "n_tokens": c.cell.n_tokens,
        "trials": [vars(t) for t in c.trials],
        "reruns": [vars(t) for t in c.reruns],
    }
    if isinstance(optimum, str):
        return found | {"problem": optimum, "best_observed": None if c.best is None else vars(c.best)}
    return found | {
        "best": {name: natural([optimum.place[j]], r.log)[0] for j, (name, r) in enumerate(fields.items())},
        "interval": {name: natural(optimum.interval(j), r.log) for j, (name, r) in enumerate(fields.items())},
        "loss": optimum.loss,
        "loss_interval": list(optimum.loss_interval),
        "draws_without_optimum": optimum.no_optimum,
    }


def _rule(rule: SettingRule) -> dict[str, Any]:
    return {
        "kind": "power" if rule.is_power else "constant",
        "constants": [float(c) for c in rule.constants],
        "is_log": rule.is_log,
        "intervals": [list(rule.interval(j)) for j in range(len(rule.constants))],
        "n_cells": rule.n_cells,
        "chi2": rule.chi2,
        "spare": rule.spare,
        "why_constant": rule.why_constant or None,
    }


def write_tuning(result: TuneResult, out: Path) -> Path:
    """Write the page, the figures, tune.json and the tuned recipe; return the path of the page.

    Args:
        result: The tuning.
        out: The directory; made if it does not exist.

    Raises:
        RunError: A file cannot be written.
    """
    make_dir(out)
    data = {"tune_surface": _surface(result), "tune_optima": _optima(result)}
    drawn = draw_figures(out, data)
    write_json(out / "tune.json", record(result))
    if result.written_rules():
        write_text(out / RECIPE, header_of(result) + result.sweep_file().to_yaml())
    else:
        with writing(out / RECIPE):
            (out / RECIPE).unlink(missing_ok=True)  # of an earlier tuning
    figures = [Figure(name, CAPTIONS[name]) for name in drawn]
    document = result_document(result, figures=figures)
    origin = Facts([("digest", result.file.digest), *code_version().items()], detail=True)
    document += [Heading("Provenance", detail=True), origin]
    write_text(out / "README.md", render_markdown(document))
    return out / "README.md"


def _surface(result: TuneResult) -> SurfacePlot | None:
    """Trials and surface of every cell; None where no trial finished."""
    fields = list(result.file.fields.items())
    panels = []
    for c in result.cells:
        rows = [t for t in c.trials if t.loss is not None]
        if not rows:
            continue
        loss = np.array([t.loss for t in rows])
        row = []
        for j, (name, _) in enumerate(fields):
            x = np.array([t.values[name] for t in rows])
            row.append((x, *_line(c.optimum, j, x, fields[j][1].log)))
        panels.append((f"N={c.cell.n_params:,} D={c.cell.n_tokens:,.0f}", loss, row))
    if not panels:
        return None
    return SurfacePlot([name for name, _ in fields], [r.log for _, r in fields], panels)


def _line(optimum: Any, j: int, x: np.ndarray, log: bool) -> tuple[Any, Any, Any]:
    """Values, losses and best interval along field j; None each without an optimum."""
    if not isinstance(optimum, SettingsOptimum):
        return None, None, None
    ends = np.log([x.min(), x.max()]) if log else np.array([x.min(), x.max()])
    along = np.linspace(*ends, 100)
    away = along - optimum.place[j]
    # The other fields follow to their best values: the curvature is that of 1 / (H^-1)_jj.
    curvature = 1 / np.linalg.inv(optimum.surface.curvature)[j, j]
    loss = np.exp(optimum.surface.depth + curvature * away**2 / 2)
    return np.array(natural(along, log)), loss, natural(optimum.interval(j), log)


def _optima(result: TuneResult) -> OptimaPlot | None:
    """Best values of every cell and the rule; None where no cell has an optimum."""
    tuned = [c for c in result.cells if isinstance(c.optimum, SettingsOptimum)]
    if not tuned:
        return None
    n_params = np.array([c.cell.n_params for c in tuned])
    n_tokens = np.array([c.cell.n_tokens for c in tuned])
    best, ends, rules = {}, {}, {}
    for j, (name, r) in enumerate(result.file.fields.items()):
        best[name] = np.array([natural([c.optimum.place[j]], r.log)[0] for c in tuned])
        ends[name] = np.array([natural(c.optimum.interval(j), r.log) for c in tuned])
        rule = result.rules[name]
        if isinstance(rule, SettingRule):
            rules[name] = {n: [rule.at(n, d) for d in sorted(set(n_tokens))] for n in sorted(set(n_params))}
    return OptimaPlot(n_params, n_tokens, best, ends, rules)
