"""The mirror: run directories as MLflow runs. It can be lost, late or broken; nothing else is.

    experiment = sweep     parent run = the sweep     child runs = its runs     + one run per fit

One pass reads every journal from where the last pass stopped and sends what is new. A run
that was resumed logs some steps again: of each metric and step the first one counts, because
that is a rule about the journal alone, so a mirror made anew from the beginning is the same.
The state file only saves time; without it everything is sent again and nothing is doubled.

Not here: the process that follows a sweep (sync.py).
"""

import hashlib
import importlib.util
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalelab.config import read
from scalelab.errors import ConfigError, TrackError
from scalelab.files import locked, make_dir, write_json
from scalelab.track.manifest import PlannedRun, SweepManifest
from scalelab.track.points import Point, StoreDown
from scalelab.track.table import state_of
from scalelab.train.rundir import RunDir, read_events
from scalelab.train.spec import RunResult
from scalelab.units import sci, si

if TYPE_CHECKING:
    from scalelab.track.mlflow_store import Store

STATUS = {"finished": "FINISHED", "diverged": "FAILED", "failed": "FAILED", "interrupted": "KILLED"}
FINAL = (
    "loss", "bpb", "loss_se", "flops", "flops_6nd", "flops_per_token", "n_params_total",
    "n_params_non_embedding", "n_params_matmul", "n_params_active", "n_tokens",
    "n_tokens_unique", "train_s", "eval_s",
)  # fmt: skip
"""Results that become single metrics under their own names."""


def tracking_uri(root: Path) -> str:
    """Where the mirror is: $MLFLOW_TRACKING_URI, else a SQLite file among the runs."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.resolve() / 'mlflow.db'}"


def artifact_root(root: Path) -> Path | None:
    """Where artifacts of our own store lie; None where a server decides."""
    return None if os.environ.get("MLFLOW_TRACKING_URI") else root.resolve() / "mlflow-artifacts"


def has_mlflow() -> bool:
    """Whether MLflow is installed, without importing it."""
    return importlib.util.find_spec("mlflow") is not None


def open_store(root: Path) -> "Store":
    """The store, made under a lock where it is missing: two makers at once would both fail.

    Raises:
        TrackError: MLflow is not installed.
        StoreDown: The store cannot be reached or read.
    """
    if not has_mlflow():
        raise TrackError(
            "MLflow is not installed, so there is nothing to mirror to",
            where="this Python's packages",
            fix="pip install mlflow, then: scalelab sync",
        )
    from scalelab.track.mlflow_store import Store

    make_dir(root)
    with waiting_lock(root / ".mlflow.lock"):
        return Store(tracking_uri(root), artifact_root(root))


@contextmanager
def waiting_lock(path: Path) -> Iterator[None]:
    """Hold a lock file, waiting for whoever holds it now."""
    import fcntl

    make_dir(path.parent)
    with open(path, "a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Mirror:
    """One sweep's mirror in one store, pass by pass."""

    def __init__(self, root: Path, sweep: str, store: "Store"):
        self.root, self.sweep, self.store = root, sweep, store
        self._state_path = root / sweep / ".sync.json"
        self._state = self._load_state()
        self._experiment = store.experiment(sweep)
        self._parent: str | None = None
        self._described: dict[str, Any] | None = None

    def _load_state(self) -> dict[str, Any]:
        try:
            every = json.loads(self._state_path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            every = {}  # lost or torn: all is sent again, and nothing is doubled
        return every.get(self._identity(), {})

    def _identity(self) -> str:
        """What the state is about: a store. A SQLite file made anew is another store."""
        uri = self.store.uri
        path = Path(uri.removeprefix("sqlite:///"))
        return f"{uri}#{path.stat().st_ino}" if uri.startswith("sqlite") and path.exists() else uri

    def _save_state(self) -> None:
        write_json(self._state_path, {self._identity(): self._state})

    def pass_over(self, *, last: bool = False) -> int:
        """Send what is new. Returns how many runs had something. Raises StoreDown.

        Args:
            last: Nothing runs any more: runs without a result are marked as they stand.
        """
        manifest = SweepManifest.load(self.root, self.sweep)
        if self._parent is None:
            self._parent = self.store.run(
                self._experiment, f"sweep:{self.sweep}", self.sweep, start_ms=manifest.created_ms
            )
        own = [planned for planned in manifest.runs if planned.dir.startswith(f"{self.sweep}/")]
        moved = sum(self._send(planned, manifest, last) for planned in own)
        self._describe(manifest, last)
        return moved

    def _send(self, planned: PlannedRun, manifest: SweepManifest, last: bool) -> bool:
        """Bring one run up to date. Whether there was anything to do."""
        run_dir = RunDir(self.root / planned.dir)
        known = self._state.setdefault(planned.run, {"id": None, "offset": 0, "seen": {}})
        if known.get("state") in {"finished", "diverged"}:
            return False
        events, offset = read_events(run_dir.log_path, known["offset"])
        result = run_dir.result()
        state, reason = state_of(run_dir, result)
        if not last and result is None:
            state, reason = "running", None  # between two tries there is nobody to tell apart
        if not events and known.get("state") == state:
            return False
        if known["id"] is None:
            if not events:
                return False
            known["id"] = self._create(planned, run_dir, manifest, events[0]["t"])
        seen = dict(known["seen"])
        points = list(_points(events, seen))
        tags = {"scalelab.state": state} | ({"scalelab.reason": reason} if reason else {})
        if result is not None:
            points += _final_points(result)
            self._keep_files(known["id"], run_dir)
        self.store.log(known["id"], points=points, tags=tags)
        if known.get("state") != state:
            end = result.finished_ms if result else (events[-1]["t"] if events else None)
            self.store.status(known["id"], STATUS.get(state, "RUNNING"), end)
        known.update(offset=offset, seen=seen, state=state)
        self._save_state()
        return True

    def _create(
        self, planned: PlannedRun, run_dir: RunDir, manifest: SweepManifest, start_ms: int
    ) -> str:
        size = f"N{si(planned.n_params)}-s{planned.seed}"
        budget = "" if planned.flops_planned is None else f"C{sci(planned.flops_planned)}-"
        run_id = self.store.run(
            self._experiment, planned.run, budget + size, start_ms=start_ms, parent=self._parent
        )
        params = dict(_flat("", read(run_dir.spec_path).data))
        params |= {
            "flops_planned": str(planned.flops_planned),
            "n_params_planned": str(planned.n_params_planned),
            "n_tokens_planned": str(planned.n_tokens_planned),
            "param_count": manifest.param_count,
        }
        tags = {"scalelab.sweep": self.sweep, "scalelab.dir": planned.dir}
        self.store.log(run_id, params=params, tags=tags)
        return run_id

    def _keep_files(self, run_id: str, run_dir: RunDir) -> None:
        for path in (run_dir.spec_path, run_dir.result_path):
            self.store.artifact(run_id, path)

    def _describe(self, manifest: SweepManifest, last: bool) -> None:
        """The parent's words, state and status; sent when they have changed."""
        assert self._parent is not None
        rows = [(p, RunDir(self.root / p.dir).result()) for p in manifest.runs]
        done = sum(result is not None for _, result in rows)
        state = "finished" if done == len(rows) else "interrupted" if last else "running"
        tags = {
            "scalelab.state": state,
            "scalelab.digest": manifest.digest,
            "mlflow.note.content": _note(manifest, rows, self.sweep),
        }
        if tags == self._described:
            return
        self.store.log(self._parent, tags=tags, params={"param_count": manifest.param_count})
        ends = [result.finished_ms for _, result in rows if result is not None]
        self.store.status(self._parent, STATUS.get(state, "RUNNING"), max(ends, default=None))
        self._described = tags


def _points(events: list[dict[str, Any]], seen: dict[str, int]) -> Iterator[Point]:
    """Metrics of the journal, each step of each once; `seen` is brought forward."""
    names = {
        "step": {"loss": "train_loss", "lr": "lr", "grad_norm": "grad_norm",
                 "tokens_per_s": "tokens_per_s", "mfu": "mfu"},
        "eval": {"loss": "val_loss"},
    }  # fmt: skip
    for event in events:
        for key, name in names.get(event["event"], {}).items():
            value = event.get(key)
            if value is not None and event["step"] > seen.get(name, -1):
                seen[name] = event["step"]
                yield Point(name, float(value), event["t"], event["step"])


def _final_points(result: RunResult) -> list[Point]:
    values = {name: getattr(result, name) for name in FINAL}
    values |= {"mean_tokens_per_s": result.tokens_per_s, "mean_mfu": result.mfu}
    return [
        Point(name, float(value), result.finished_ms, result.n_steps)
        for name, value in values.items()
        if value is not None
    ]


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), inner)
    else:
        yield prefix, str(value)


def _note(
    manifest: SweepManifest, rows: list[tuple[PlannedRun, RunResult | None]], sweep: str
) -> str:
    """The sweep in Markdown: its question, what was expected, and what its runs came to."""
    lines = [
        f"**{manifest.question.strip()}**",
        f"Expected: {manifest.prediction.strip()}",
        f"| budget | N ({manifest.param_count}) | D | seed | loss | run |\n|---|---|---|---|---|---|",
    ]
    for planned, result in rows:
        loss = "" if result is None or result.loss is None else f"{result.loss:.4f}"
        other = Path(planned.dir).parent.name
        shared = "" if other == sweep else f" (in the experiment {other})"
        lines[-1] += (
            f"\n| {sci(planned.flops_planned)} | {si(planned.n_params)} | {si(planned.n_tokens)} "
            f"| {planned.seed} | {loss} | {planned.run}{shared} |"
        )
    return "\n\n".join(lines)


def log_fit(root: Path, sweep: str, out: Path, fit: dict[str, Any]) -> str:
    """Mirror a fit: exponents and forecast as metrics, the report's files as artifacts.

    Returns: MLflow's id of the run. A fit of the same numbers is the same run.

    Raises:
        TrackError: MLflow is not there, or did not take it.
    """
    text = json.dumps(fit, sort_keys=True)
    key = f"fit:{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    newest = (out / "fit.json").stat().st_mtime_ns // 1_000_000
    values = {
        f"{law}.{name}": value
        for law, found in fit["laws"].items()
        for name, value in {**found.get("params", {}), **found.get("exponents", {})}.items()
    }
    values |= {f"forecast.{k}": fit["forecast"].get(k) for k in ("n_params", "n_tokens", "loss")}
    try:
        store = open_store(root)
        experiment = store.experiment(sweep)
        run_id = store.run(experiment, key, "fit", start_ms=newest)
        points = [Point(k, float(v), newest, 0) for k, v in values.items() if v is not None]
        params = {"n_runs": str(fit["n_runs"]), "param_count": fit["param_count"]}
        params |= {"forecast.flops": str(fit["forecast"]["flops"])}
        tags = {"scalelab.sweep": sweep, "mlflow.note.content": str(fit["forecast"]["verdict"])}
        store.log(run_id, points=points, params=params, tags=tags)
        for path in sorted(out.iterdir()):
            if path.suffix in {".png", ".svg", ".json", ".md", ".txt", ".csv"}:
                store.artifact(run_id, path)
        store.status(run_id, "FINISHED", newest)
    except StoreDown as error:
        raise not_taken(root, error) from error
    return run_id


def not_taken(root: Path, error: Exception) -> TrackError:
    """What a person is told when the store refuses."""
    return TrackError(
        f"MLflow's store did not answer as it should: {error}",
        where=tracking_uri(root),
        fix="nothing is lost: see to the store, then run `scalelab sync`",
    )
