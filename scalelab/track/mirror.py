"""The mirror of a sweep, and of what is said about runs: fits, outcomes, evaluations.

    experiment = sweep     parent run = the sweep     child runs = its runs     + one run per fit

It can be lost, late or broken; nothing else is. A run that another sweep has trained is mirrored
there; here it is a line of the parent's note.

Not here: how a mirror is kept (journal_mirror.py), what is sent (points.py), post-trainings
(stage_mirror.py).
"""

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scalelab.track.access import (
    Refused,
    StoreDown,
    insist,
    not_taken,
    open_store,
    the_only_writer,
)
from scalelab.track.journal_mirror import Child, Ending, JournalMirror
from scalelab.track.manifest import SweepManifest, manifest_path
from scalelab.track.points import (
    Point,
    final_points,
    final_tags,
    journal_points,
    note,
    planned_tags,
    run_name,
)
from scalelab.train.rundir import RunDir
from scalelab.train.spec import RunResult

FIT_PATIENCE_S = 5.0
"""How long `fit` waits for a store that is down: a fit on the disk is not lost."""
KEPT_WITH_A_FIT = {".png", ".svg", ".pdf", ".json", ".md", ".txt", ".csv"}


class Mirror(JournalMirror[SweepManifest, RunResult]):
    """One sweep's mirror in one store."""

    noun, prefix, state_file = "run", "sweep", ".sync.json"

    def _load(self) -> SweepManifest:
        self._homes: dict[str, set[str]] = {}  # asked anew in each pass
        return SweepManifest.load(self.root, self.name)

    def _children(self, asked: SweepManifest) -> list[Child]:
        return [
            Child(
                planned.run,
                f"run {planned.run}",
                run_name(planned),
                RunDir(self.root / planned.dir),
                planned_tags(planned, asked),
            )
            for planned in asked.runs
        ]

    def _is_ours(self, child: Child) -> bool:
        home = child.dir.path.parent.name
        if home == self.name:
            return True
        if home not in self._homes:
            there = manifest_path(self.root, home).exists()
            listed = SweepManifest.load(self.root, home).runs if there else ()
            self._homes[home] = {run.run for run in listed}
        return child.key not in self._homes[home]

    def _read(self, run_dir: RunDir) -> RunResult | None:
        return run_dir.result()

    def _points(self, events: list[dict[str, Any]], seen: dict[str, int]) -> list[Point]:
        return list(journal_points(events, seen))

    def _ending(self, child: Child, result: RunResult, seen: Mapping[str, int]) -> Ending:
        files = (child.dir.spec_path, child.dir.result_path)
        return Ending(final_points(result), final_tags(result), files)

    def _words(
        self, asked: SweepManifest, results: Mapping[str, RunResult | None], last: bool
    ) -> tuple[str, dict[str, str]]:
        is_done = all(result is not None for result in results.values())
        tags = {
            "scalelab.sweep": self.name,
            "scalelab.digest": asked.digest,
            "scalelab.param_count": asked.param_count,
            "mlflow.note.content": note(asked, results),
        }
        return "finished" if is_done else "interrupted" if last else "running", tags


def log_fit(root: Path, sweep: str, out: Path, fit: dict[str, Any]) -> str:
    """Mirror a fit: exponents and forecast as metrics, the report's files as artifacts.

    Args:
        root: Where all runs are.
        sweep: Whose runs were fitted.
        out: The folder of the report; its figures, tables and records become artifacts.
        fit: What `fit --json` holds.

    Returns: MLflow's id of the run. A fit of the same numbers is the same run.

    Raises:
        TrackError: MLflow is not there, or did not take it.
    """
    text = json.dumps(fit, sort_keys=True)
    key = f"fit:{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    values = {
        f"{law}.{name}": value
        for law, found in fit["laws"].items()
        for name, value in {**found.get("params", {}), **found.get("exponents", {})}.items()
    }
    forecast = fit.get("forecast") or {}
    values |= {f"forecast.{k}": forecast.get(k) for k in ("flops", "n_params", "n_tokens", "loss")}
    words = str(forecast.get("verdict") or "no forecast")
    params = {"n_runs": str(fit["n_runs"]), "param_count": str(fit["param_count"])}
    tags = {"scalelab.sweep": sweep}
    return _log_report(root, sweep, out, key, values, words, tags, params)


def log_outcome(
    root: Path, sweep: str, out: Path, digest: str, values: Mapping[str, float | None], words: str
) -> str:
    """Mirror what came true of a forecast: predicted and actual as metrics, the report's files.

    Args:
        root: Where all runs are.
        sweep: The plan whose final run it is.
        out: The folder of the report.
        digest: Of the forecast.
        values: By name, such as "predicted.loss" and "actual.loss"; None is unknown.
        words: The outcome in a sentence.

    Returns: MLflow's id of the run. The same outcome told again is the same run.

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
        words: What came out, in a sentence or in Markdown.

    Returns: MLflow's id of the run. An evaluation of the same key is the same run.

    Raises:
        TrackError: MLflow is not there, or did not take it.
    """
    return _log_report(root, name, out, f"evaluation:{key}", values, words, {})


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
    """Mirror a report in the experiment `name`; what kind it is stands before the key's colon.

    Returns: MLflow's id of the run.

    Raises:
        TrackError: MLflow is not there, or did not take it.
    """
    kind = key.partition(":")[0]
    tags = {
        "scalelab.kind": kind,
        "scalelab.state": "finished",
        "mlflow.note.content": words,
        **tags,
    }

    def send() -> str:
        with the_only_writer(root, FIT_PATIENCE_S):
            store = open_store(root)
            experiment = store.experiment(name)
            # Its time is the time of its first telling: the same report told again adds no rows.
            run = store.run(experiment, key, kind, start_ms=time.time_ns() // 1_000_000)
            points = [
                Point(metric, float(value), run.start_ms, 0)
                for metric, value in values.items()
                if value is not None
            ]
            store.log(run.id, points=points, params=params, tags=tags)
            for path in sorted(out.iterdir()):
                if path.suffix in KEPT_WITH_A_FIT:
                    store.artifact(run.id, path)
            store.status(run.id, "FINISHED", run.start_ms)
        return run.id

    try:
        return insist(send, FIT_PATIENCE_S)
    except (StoreDown, Refused) as error:
        raise not_taken(root, error) from error
