"""The mirror: run directories as MLflow runs. It can be lost, late or broken; nothing else is.

    experiment = sweep     parent run = the sweep     child runs = its runs     + one run per fit

One pass reads every journal from where the last pass stopped and sends what is new; a run
appears in MLflow with the first line of its journal. The state file only saves time: without
it everything is sent again and nothing is doubled. It belongs to one parent run, whose id no
other store has: a store that was deleted and made anew is filled from the beginning. A run that was
deleted from the disk and trained again is another run under the same id: it replaces the first.

A run that another sweep has trained is mirrored there; here it is a line of the parent's note.

Not here: the process that follows a sweep (sync.py), what is sent (points.py).
"""

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalelab.config import read
from scalelab.errors import ScalelabError
from scalelab.files import write_json
from scalelab.track.access import (
    Refused,
    StoreDown,
    insist,
    not_taken,
    open_store,
    the_only_writer,
)
from scalelab.track.manifest import PlannedRun, SweepManifest, manifest_path
from scalelab.track.points import (
    Point,
    began_ms,
    final_points,
    final_tags,
    flat,
    journal_points,
    journal_size,
    last_heard_ms,
    note,
    planned_tags,
    run_name,
)
from scalelab.track.table import state_of
from scalelab.train.rundir import RunDir, read_events
from scalelab.train.spec import RunResult

if TYPE_CHECKING:
    from scalelab.track.mlflow_store import Store

STATUS = {"finished": "FINISHED", "diverged": "FAILED", "failed": "FAILED", "interrupted": "KILLED"}
FIT_PATIENCE_S = 5.0
"""How long `fit` waits for a store that is down: a fit on the disk is not lost."""
KEPT_WITH_A_FIT = {".png", ".svg", ".pdf", ".json", ".md", ".txt", ".csv"}


@dataclass(frozen=True)
class Passed:
    """What one pass came to."""

    moved: int
    """Runs that had something to send."""
    problems: tuple[str, ...]
    """Runs that could not be mirrored, and why; the others were."""


class Mirror:
    """One sweep's mirror in one store, pass by pass. Hold `the_only_writer` around each."""

    def __init__(self, root: Path, sweep: str, store: "Store"):
        self.root, self.sweep, self.store = root, sweep, store
        self._experiment = store.experiment(sweep)
        self._state_path = root / sweep / ".sync.json"
        self._state: dict[str, dict[str, Any]] = {}
        self._parent: str | None = None
        self._described: dict[str, str] | None = None
        self._results: dict[str, tuple[tuple[int, int, int], RunResult]] = {}
        self._homes: dict[str, set[str]] = {}
        self.sent = 0
        """Runs brought up to date so far: a pass that is dropped has still got on."""

    def pass_over(self, *, last: bool = False) -> Passed:
        """Send what is new.

        Args:
            last: Nothing is being driven any more: runs without a result are marked as they
                stand, and what is in the store is checked against what should be.

        Raises:
            StoreDown: Come again; what was sent stays sent.
            TrackError: The sweep's manifest is missing or cannot be read.
        """
        manifest = SweepManifest.load(self.root, self.sweep)
        if self._parent is None:
            self._parent = self.store.run(
                self._experiment, f"sweep:{self.sweep}", self.sweep, start_ms=manifest.created_ms
            ).id
        self._state, self._homes = self._load_state(), {}
        done = self._send_all(manifest, last)
        if last and self._forget_strays():
            again = self._send_all(manifest, last)
            done = Passed(done.moved + again.moved, again.problems)
        return done

    def _load_state(self) -> dict[str, dict[str, Any]]:
        try:
            every = json.loads(self._state_path.read_text(encoding="utf-8"))
            return dict(every["runs"]) if every["parent"] == self._parent else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}  # lost or torn: all is sent again, and nothing is doubled

    def _send_all(self, manifest: SweepManifest, last: bool) -> Passed:
        moved, problems = 0, []
        results: dict[str, RunResult | None] = {}
        for planned in manifest.runs:
            results[planned.run] = None
            try:
                results[planned.run] = result = self._result(planned)
                if self._is_ours(planned):
                    moved += self._send(planned, manifest, result, last)
            except ScalelabError as error:
                problems.append(f"run {planned.run} is not mirrored: {error}")
            except Refused as error:
                # It may have been deleted by hand since we met it: meet it afresh, once.
                if self._state.pop(planned.run, None) is not None:
                    raise StoreDown(str(error)) from error
                problems.append(f"run {planned.run} is not mirrored: MLflow refused it: {error}")
        try:
            self._describe(manifest, results, last)
        except Refused as error:
            self._parent = self._described = None
            raise StoreDown(str(error)) from error
        return Passed(moved, tuple(problems))

    def _result(self, planned: PlannedRun) -> RunResult | None:
        """A run's result, read once for as long as its file stays the same."""
        run_dir = RunDir(self.root / planned.dir)
        try:
            stat = run_dir.result_path.stat()
        except OSError:
            return None
        now = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if planned.run in self._results and self._results[planned.run][0] == now:
            return self._results[planned.run][1]
        result = run_dir.result()
        if result is not None:
            self._results[planned.run] = (now, result)
        return result

    def _is_ours(self, planned: PlannedRun) -> bool:
        """Whether this sweep mirrors the run, and not the one that has trained it."""
        home = Path(planned.dir).parent.name
        if home == self.sweep:
            return True
        if home not in self._homes:
            there = manifest_path(self.root, home).exists()
            listed = SweepManifest.load(self.root, home).runs if there else ()
            self._homes[home] = {run.run for run in listed}
        return planned.run not in self._homes[home]

    def _send(
        self, planned: PlannedRun, manifest: SweepManifest, result: RunResult | None, last: bool
    ) -> bool:
        """Bring one run up to date. Whether there was anything to do."""
        run_dir = RunDir(self.root / planned.dir)
        known = dict(self._state.get(planned.run, {}))
        if result is not None and known.get("finished_ms") == result.finished_ms:
            return False
        began = began_ms(run_dir, result)
        if began is None:
            return False  # not one line of its journal yet
        if known.get("began") != began or journal_size(run_dir) < known["offset"]:
            known = {}
        fresh = not known
        if fresh:
            self._state.pop(planned.run, None)
            known = {"began": began, "offset": 0, "seen": {}, "state": None}
        events, offset = read_events(run_dir.log_path, known["offset"])
        # Between two tries nobody trains the run, and asking who holds its lock might be in the
        # way of the one who is about to take it: until the last pass, what has begun runs.
        state, reason = state_of(run_dir, result) if last or result else ("running", None)
        if not (events or fresh or result) and (not last or known["state"] == state):
            return False
        tags = {"scalelab.state": state} | ({"scalelab.reason": reason} if reason else {})
        if fresh:
            known["id"] = self._create(planned, run_dir, manifest, began)
        seen = dict(known["seen"])
        points = list(journal_points(events, seen))
        if result is not None:
            points += final_points(result)
            tags |= final_tags(result)
            for path in (run_dir.spec_path, run_dir.result_path):
                self.store.artifact(known["id"], path)
        self.store.log(known["id"], points=points, tags=tags)
        if known["state"] != state:
            end = result.finished_ms if result else last_heard_ms(run_dir, began)
            self.store.status(known["id"], STATUS.get(state, "RUNNING"), end)
        known |= {"offset": offset, "seen": seen, "state": state}
        known["finished_ms"] = result.finished_ms if result else None
        self._state[planned.run] = known
        self._save_state()
        self.sent += 1
        return True

    def _create(
        self, planned: PlannedRun, run_dir: RunDir, manifest: SweepManifest, began: int
    ) -> str:
        params = dict(flat(read(run_dir.spec_path).data))  # before the store hears of the run
        run = self.store.run(
            self._experiment,
            planned.run,
            run_name(planned),
            start_ms=began,
            parent=self._parent,
            of_this_start=True,
        )
        assert self._parent is not None
        tags = planned_tags(planned, manifest) | {"mlflow.parentRunId": self._parent}
        self.store.log(run.id, params=params, tags=tags)
        return run.id

    def _save_state(self) -> None:
        write_json(self._state_path, {"parent": self._parent, "runs": self._state})

    def _forget_strays(self) -> bool:
        """Forget runs that the store has not, or has under another id. Whether there were any."""
        there = self.store.runs(self._experiment)
        strays = [run for run, known in self._state.items() if there.get(run) != known["id"]]
        for run in strays:
            del self._state[run]
        if there.get(f"sweep:{self.sweep}") != self._parent:
            self._parent = self._described = None
            raise StoreDown("the sweep's own run is not in the store any more")
        return bool(strays)

    def _describe(
        self, manifest: SweepManifest, results: dict[str, RunResult | None], last: bool
    ) -> None:
        """The parent's words, state and status; sent when they have changed."""
        assert self._parent is not None
        is_done = all(result is not None for result in results.values())
        state = "finished" if is_done else "interrupted" if last else "running"
        tags = {
            "scalelab.state": state,
            "scalelab.sweep": self.sweep,
            "scalelab.digest": manifest.digest,
            "scalelab.param_count": manifest.param_count,
            "mlflow.note.content": note(manifest, results),
        }
        if tags == self._described:
            return
        self.store.log(self._parent, tags=tags)
        ends = [result.finished_ms for result in results.values() if result is not None]
        end = max(ends, default=manifest.created_ms)
        self.store.status(self._parent, STATUS.get(state, "RUNNING"), end)
        self._described = tags


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
    try:
        return insist(lambda: _log_fit(root, sweep, out, fit, key), FIT_PATIENCE_S)
    except (StoreDown, Refused) as error:
        raise not_taken(root, error) from error


def _log_fit(root: Path, sweep: str, out: Path, fit: dict[str, Any], key: str) -> str:
    values = {
        f"{law}.{name}": value
        for law, found in fit["laws"].items()
        for name, value in {**found.get("params", {}), **found.get("exponents", {})}.items()
    }
    forecast = fit.get("forecast") or {}
    values |= {f"forecast.{k}": forecast.get(k) for k in ("flops", "n_params", "n_tokens", "loss")}
    tags = {"mlflow.note.content": str(forecast.get("verdict") or "no forecast")}
    params = {"n_runs": str(fit["n_runs"]), "param_count": str(fit["param_count"])}
    return _log_report(root, sweep, out, key, "fit", values, params, tags)


def log_outcome(
    root: Path, sweep: str, out: Path, digest: str, values: dict[str, float | None], words: str
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
    tags = {"mlflow.note.content": words, "scalelab.forecast": digest}
    try:
        return insist(
            lambda: _log_report(
                root, sweep, out, f"outcome:{digest[:12]}", "outcome", values, {}, tags
            ),
            FIT_PATIENCE_S,
        )
    except (StoreDown, Refused) as error:
        raise not_taken(root, error) from error


def _log_report(
    root: Path,
    sweep: str,
    out: Path,
    key: str,
    name: str,
    values: dict[str, float | None],
    params: dict[str, str],
    tags: dict[str, str],
) -> str:
    with the_only_writer(root, FIT_PATIENCE_S):
        store = open_store(root)
        experiment = store.experiment(sweep)
        # Its time is the time of its first telling: the same report told again adds no rows.
        run = store.run(experiment, key, name, start_ms=time.time_ns() // 1_000_000)
        points = [Point(k, float(v), run.start_ms, 0) for k, v in values.items() if v is not None]
        tags = {"scalelab.sweep": sweep, "scalelab.state": "finished", **tags}
        store.log(run.id, points=points, params=params, tags=tags)
        for path in sorted(out.iterdir()):
            if path.suffix in KEPT_WITH_A_FIT:
                store.artifact(run.id, path)
        store.status(run.id, "FINISHED", run.start_ms)
    return run.id
