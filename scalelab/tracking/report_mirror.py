"""Reports in MLflow: fits, plans, outcomes and evaluations, each a run of its name's experiment.

Each is first recorded beside the runs, so that nothing is lost where MLflow is away: the next pass
of the mirror, or `scalelab sync`, sends what is missing.

Not here: the record (report_record.py), runs and stages (sweep_mirror.py, stage_mirror.py).
"""

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalelab.markup import escape_markdown
from scalelab.tracking.payload import MetricPoint
from scalelab.tracking.report_record import ReportRecord, report_records, write_report_record
from scalelab.tracking.store_access import insist, not_taken, open_store, writer_lock
from scalelab.tracking.store_errors import StoreDown, StoreRefused

if TYPE_CHECKING:
    from scalelab.tracking.mlflow_store import Store

FIT_PATIENCE_S = 5.0
"""Seconds that `fit` waits for a store that is down; the fit on the disk is not lost."""
FORECAST = "forecast."
"""Prefix of the metrics of a forecast: FLOPs, N*, D* and loss."""
VERDICT = "scalelab.verdict"
"""Tag with the grade of a forecast."""


def log_fit(root: Path, sweep: str, out: Path, fit: dict[str, Any]) -> str:
    """Mirror a fit: the forecast as metrics, constants and exponents as params, the report's files as artifacts.

    Args:
        root: Where all runs are.
        sweep: Name of the sweep whose runs were fitted.
        out: The folder of the report; its figures, tables and records become artifacts.
        fit: What `fit --json` holds.

    Returns: MLflow's id of the run. A fit of the same numbers is the same run.

    Raises:
        TrackError: MLflow is not there, or did not take it.
    """
    text = json.dumps(fit, sort_keys=True)
    key = f"fit:{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    constants = {
        f"{law}.{name}": repr(value)
        for law, found in fit["laws"].items()
        for name, value in {**found.get("params", {}), **found.get("exponents", {})}.items()
    }
    forecast = fit.get("forecast") or {}
    values = {f"{FORECAST}{k}": forecast.get(k) for k in ("flops", "n_params", "n_tokens", "loss")}
    words = escape_markdown(str(forecast.get("verdict") or "no forecast"))
    params = {"n_runs": str(fit["n_runs"]), "param_count": str(fit["param_count"]), **constants}
    tags = {"scalelab.sweep": sweep}
    if forecast.get("grade"):
        tags[VERDICT] = str(forecast["grade"])
    return _log_report(root, sweep, out, key, values, words, tags, params)


def record_plan(
    root: Path, sweep: str, out: Path, name: str, values: Mapping[str, float | None], words: str
) -> None:
    """Record a plan beside the runs of its sweep; the next pass of the mirror sends it.

    Args:
        root: Where all runs are.
        sweep: Name of the sweep that the plan was made from.
        out: The folder of the plan.
        name: Name of the plan.
        values: By name, such as "plan.loss"; None is unknown.
        words: The plan in one paragraph, as Markdown.
    """
    tags = {"scalelab.sweep": sweep, "scalelab.plan": name}
    _recorded(root, sweep, out, f"plan:{name}", values, words, tags)


def log_outcome(
    root: Path, sweep: str, out: Path, digest: str, values: Mapping[str, float | None], words: str
) -> str:
    """Mirror what came true of a forecast: predicted and actual as metrics, the report's files.

    Args:
        root: Where all runs are.
        sweep: Name of the plan whose final run it is.
        out: The folder of the report.
        digest: Digest of the forecast.
        values: By name, such as "predicted.loss" and "actual.loss"; None is unknown.
        words: The outcome, as Markdown.

    Returns: MLflow's id of the run. The same outcome logged again is the same run.

    Raises:
        TrackError: MLflow is not there, or did not take it.
    """
    tags = {"scalelab.sweep": sweep, "scalelab.forecast": digest}
    return _log_report(root, sweep, out, f"outcome:{digest[:12]}", values, words, tags)


def log_evaluation(
    root: Path, name: str, out: Path, key: str, values: Mapping[str, float | None], words: str
) -> str:
    """Mirror an evaluation: its numbers as metrics, the report's files as artifacts.

    Args:
        root: Where all runs are.
        name: The sweep or post-training whose models were evaluated.
        out: The folder of the report.
        key: What was evaluated and on what, as a digest or another plain word.
        values: By name, such as "instruct.accuracy"; None is unknown.
        words: The result, as Markdown.

    Returns: MLflow's id of the run. An evaluation of the same key is the same run.

    Raises:
        TrackError: MLflow is not there, or did not take it.
    """
    return _log_report(root, name, out, f"evaluation:{key}", values, words, {})


def send_missing(
    store: "Store", experiment: str, there: Mapping[str, str], root: Path, name: str
) -> dict[str, str]:
    """Send the reports of a name that the store lacks and return the ids of all by key.

    Args:
        store: The store.
        experiment: Id of the experiment of the name.
        there: Ids by key of the runs that the store has.
        root: Directory of all runs.
        name: Name that the reports are about.
    """
    return {
        record.key: there.get(record.key) or send_report(store, experiment, root, record)
        for record in report_records(root, name)
    }


def send_report(store: "Store", experiment: str, root: Path, record: ReportRecord) -> str:
    """Send one report and return MLflow's id of its run. Sending it again adds nothing.

    Args:
        store: The store.
        experiment: Id of the experiment of the name that the report is about.
        root: Directory of all runs.
        record: The report.
    """
    run = store.run(experiment, record.key, record.kind, start_ms=record.first_ms)
    points = [MetricPoint(metric, value, run.start_ms, 0) for metric, value in record.metrics.items()]
    tags = {
        "scalelab.kind": record.kind,
        "scalelab.state": "finished",
        "mlflow.note.content": record.words,
        **record.tags,
    }
    store.log(run.id, points=points, params=record.params, tags=tags)
    for path in record.paths(root):
        store.artifact(run.id, path)
    store.status(run.id, "FINISHED", run.start_ms)
    return run.id


def _recorded(
    root: Path,
    name: str,
    out: Path,
    key: str,
    values: Mapping[str, float | None],
    words: str,
    tags: Mapping[str, str],
    params: Mapping[str, str] | None = None,
) -> ReportRecord:
    """Record a report and return the record.

    Args:
        root: Directory of all runs.
        name: Name that the report is about.
        out: Directory of the report.
        key: Kind, colon, digest.
        values: Metrics by name; None is unknown.
        words: The result, as Markdown.
        tags: Further tags.
        params: Params.
    """
    now = time.time_ns() // 1_000_000
    metrics = {metric: float(value) for metric, value in values.items() if value is not None}
    record = ReportRecord(key, now, now, words, metrics, dict(params or {}), dict(tags))
    return write_report_record(root, name, out, record)


def _log_report(
    root: Path,
    name: str,
    out: Path,
    key: str,
    values: Mapping[str, float | None],
    words: str,
    tags: Mapping[str, str],
    params: Mapping[str, str] | None = None,
) -> str:
    """Record a report and send it to MLflow; see _recorded.

    Returns: MLflow's id of the run.

    Raises:
        TrackError: MLflow is not there, or did not take it.
    """
    record = _recorded(root, name, out, key, values, words, tags, params)

    def send() -> str:
        with writer_lock(root, FIT_PATIENCE_S):
            store = open_store(root)
            return send_report(store, store.experiment(name).id, root, record)

    try:
        return insist(send, FIT_PATIENCE_S)
    except (StoreDown, StoreRefused) as error:
        raise not_taken(root, error) from error
