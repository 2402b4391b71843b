"""Views of MLflow's charts: loss against tokens or FLOPs instead of the step, and against size.

MLflow keeps a shared view as a tag of the experiment, mlflow.sharedViewState.KEY, and opens it by the
address parameter viewStateShareKey=KEY. A view selects the runs that were trained and puts three charts
first; MLflow adds its own below. A version of MLflow that does not know the tag shows only its own.

Source: the state that MLflow's page writes for "Share view", version 3.17.
"""

import json
from typing import Any

from scalelab.tracking.payload import FLOPS, N_TOKENS

VIEWS = {"tokens": N_TOKENS, "FLOPs": FLOPS}
"""Horizontal axes beside the step: what they are called, and the metric."""
SECTION = "scalelab"
SIZE = "n_params_total"
"""Param on the horizontal axis of the losses of all runs."""
TRAINED = "metrics.train_loss > 0"
"""Search that finds the runs below a sweep, and neither the sweep's own nor reports."""
TRAINING = "workflowType=machine_learning"
"""Address parameter that opens MLflow's page for model training, not for language-model applications."""


def chart_views() -> dict[str, str]:
    """Return the views as tags of an experiment."""
    return {f"mlflow.sharedViewState.{metric}": json.dumps(_view(metric)) for metric in VIEWS.values()}


def chart_links(experiment: str) -> str:
    """Return links to the views in Markdown."""
    page = f"{experiment_link(experiment)}&compareRunsMode=CHART&viewStateShareKey="
    return ", ".join(f"[by {name}]({page}{metric})" for name, metric in VIEWS.items())


def experiment_link(experiment: str) -> str:
    """Return the address of an experiment's runs, relative to MLflow's page."""
    return f"#/experiments/{experiment}/runs?{TRAINING}"


def run_link(experiment: str, run_id: str) -> str:
    """Return the address of a run, relative to MLflow's page."""
    return f"#/experiments/{experiment}/runs/{run_id}?{TRAINING}"


def _view(metric: str) -> dict[str, Any]:
    section = {"uuid": SECTION, "name": "Scaling", "display": True, "isReordered": True}
    axis = {"xAxisKey": "metric", "selectedXAxisMetricKey": metric}
    charts = [_line("val_loss", axis), _line("train_loss", axis), _sizes()]
    return {
        "compareRunsMode": "CHART",
        "searchFilter": TRAINED,
        "orderByKey": "metrics.`loss`",  # in any other order than by time, runs are not nested
        "orderByAsc": True,
        "runsHiddenMode": "SHOW_ALL",
        "compareRunSections": [section],
        "compareRunCharts": charts,
        "isAccordionReordered": True,
        "globalLineChartConfig": axis,
    }


def _line(metric: str, axis: dict[str, str]) -> dict[str, Any]:
    scales = {"scaleType": "log", "lineSmoothness": 0, "range": {}}
    names = {"metricKey": metric, "selectedMetricKeys": [metric], "displayName": metric}
    return {**_card("LINE", metric), **names, **axis, **scales, "useGlobalXaxisKey": False}


def _sizes() -> dict[str, Any]:
    axes = {"xaxis": {"key": SIZE, "type": "PARAM"}, "yaxis": {"key": "loss", "type": "METRIC"}}
    return {**_card("SCATTER", "loss-by-size"), **axes}


def _card(kind: str, name: str) -> dict[str, Any]:
    return {
        "type": kind,
        "uuid": f"{SECTION}-{name}",
        "runsCountToCompare": 100,
        "metricSectionId": SECTION,
        "deleted": False,
        "isGenerated": False,
    }
