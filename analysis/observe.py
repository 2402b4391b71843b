"""What a command leaves behind it: processes, journals, results, MLflow rows, half-written files.

A `World` is a directory with the command line in it. Everything is read from outside the product:
/proc, files on the disk, SQLite. Used by kills.py and by tests/journeys.

Not here: killing at chosen moments and comparing afterwards (kills.py).
"""

import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SWEEP = """
name: journey
question: Does it hold together?
prediction: Every run finishes, whatever happens on the way, and to the same last bit.
recipe:
  data:
    source: {kind: text, paths: ["TEXT/*.txt"]}
    tokenizer: {kind: bytes}
    validation: 0.2
    epochs: 1000
  seq_len: 32
  param_count: matmul
  model: {kind: transformer, n_layers: 1, head_size: 8, ff_multiple: 8}
  optimizer: {lr: 3e-3, embedding_lr: 10, head_lr: 5}
  batch: {coefficient: 2, exponent: 0.5, min_tokens: 512, max_tokens: 2048}
  min_steps: 20
  evaluation: {tokens: 4096, curve_points: 2, curve_tokens: 1024}
  precision: fp32
design:
  kind: isoflop
  budgets: [4e9, 1e10, 2.4e10]
  sizes_per_budget: 3
  span: 4
  tokens_per_param: 20
"""

WITHOUT_MLFLOW = """
import importlib.util as u, sys
real = u.find_spec
u.find_spec = lambda n, *a: None if n.split('.')[0] == 'mlflow' else real(n, *a)
class Gone:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] == 'mlflow': raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Gone())
"""


class World:
    """A directory to work in, and the command line in it."""

    def __init__(self, path: Path, cache: Path):
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self.environ = os.environ | {"SCALELAB_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
        self.environ["PYTHONPATH"] = str(ROOT)

    @property
    def runs(self) -> Path:
        """Where the command line keeps run directories."""
        return self.path / "runs"

    @property
    def cache(self) -> Path:
        """Where prepared corpora lie."""
        return Path(self.environ["SCALELAB_CACHE"])

    def forget_mlflow(self) -> None:
        """Let Python's own finder say that there is no mlflow, as on a machine without it."""
        hidden = self.path / "hidden"
        hidden.mkdir()
        (hidden / "sitecustomize.py").write_text(WITHOUT_MLFLOW)
        self.environ["PYTHONPATH"] = f"{hidden}:{self.environ['PYTHONPATH']}"

    def command(self, *argv: str) -> list[str]:
        """A call of the command line."""
        return [sys.executable, "-m", "scalelab.cli", *argv]

    def __call__(self, *argv: str, timeout: float = 900) -> subprocess.CompletedProcess:
        """Run a command to its end; the limit is for one that hangs, on a machine however busy."""
        return subprocess.run(
            self.command(*argv),
            cwd=self.path,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def start(self, *argv: str, **streams: Any) -> subprocess.Popen:
        """Start a command in a session of its own; its output goes to pipes unless told."""
        return subprocess.Popen(
            self.command(*argv),
            cwd=self.path,
            env=self.environ,
            text=True,
            start_new_session=True,
            # A background job starts with SIGINT ignored and its children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams},
        )


# Processes, as /proc shows them.


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the state on; None when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def born(pid: int) -> str | None:
    """Start time of a process in clock ticks; None when it is gone or a zombie."""
    fields = _stat(pid)
    return None if fields is None or fields[0] in "ZX" else fields[19]


def living(processes: dict[int, str | None]) -> list[int]:
    """Processes, by pid and start time, that still run."""
    return [pid for pid, start in processes.items() if start is not None and born(pid) == start]


def descendants(pid: int) -> list[int]:
    """`pid` and every process below it."""
    parents: dict[int, list[int]] = {}
    for each in _pids():
        if fields := _stat(each):
            parents.setdefault(int(fields[1]), []).append(each)
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        todo += parents.get(found[-1], [])
    return found


def working_in(folder: Path) -> list[int]:
    """Living processes whose working directory is `folder`."""
    found = []
    for pid in _pids():
        with suppress(OSError):
            if os.readlink(f"/proc/{pid}/cwd") == str(folder) and born(pid) is not None:
                found.append(pid)
    return found


def command_of(pid: int) -> str:
    """Command line of a process; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def fork_servers(pid: int) -> list[int]:
    """The fork server of a command: a direct child of `pid`, none before it has started."""
    return [
        each
        for each in descendants(pid)
        if (fields := _stat(each))
        and int(fields[1]) == pid
        and "multiprocessing.forkserver" in command_of(each)
    ]


def kill(pids: Iterable[int]) -> None:
    """Send SIGKILL to each process that is still there."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


# Files of runs and reports.


def events(log: Path) -> list[dict[str, Any]]:
    """Events of a journal; torn lines are skipped."""
    found = []
    for line in log.read_text(errors="replace").splitlines():
        with suppress(ValueError):
            found.append(json.loads(line))
    return found


def workers(folder: Path) -> list[int]:
    """Process ids of the unfinished runs below a sweep's directory, from their journals."""
    pids = []
    for log in folder.glob("*/log.jsonl"):
        if not (log.parent / "result.json").exists():
            starts = [e["pid"] for e in events(log) if e.get("event") == "start" and "pid" in e]
            pids += starts[-1:]
    return pids


def leftovers(*folders: Path) -> list[Path]:
    """Half-written files, and checkpoints of finished work, below these directories."""
    return [
        path
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.suffix in {".partial", ".tmp", ".draft"} or path.parent.name in {"checkpoints", "partial"}
    ]


def tensors(path: Path) -> dict[str, Any]:
    """Type, shape and sha256 of each tensor in a safetensors file, without its metadata."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    found = {}
    for name, entry in json.loads(data[8:start]).items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            digest = hashlib.sha256(data[start + first : start + last]).hexdigest()
            found[name] = (entry["dtype"], tuple(entry["shape"]), digest)
    return found


Found = list[tuple[tuple, Any]]
"""Identity and values of each result. A list, because an identity may occur twice."""


def run_results(folder: Path) -> Found:
    """Losses, curves and weights of the runs below a sweep's directory."""
    found = []
    for path in folder.glob("*/result.json"):
        result = json.loads(path.read_text())
        identity = tuple(result[k] for k in ("n_params_total", "n_steps", "seed"))
        values = [result[k] for k in ("status", "loss", "curve", "train_curve")]
        weights = {p.name: tensors(p) for p in sorted(path.parent.glob("*.safetensors"))}
        found.append((identity, (values, weights)))
    return sorted(found, key=lambda one: one[0])


def stage_results(folder: Path) -> Found:
    """Metrics, costs, weights and other output of the stages below a post-training's directory."""
    found = []
    for path in folder.glob("*/result.json"):
        result = json.loads(path.read_text())
        metrics = {k: v for k, v in result["metrics"].items() if "seconds" not in k}
        weights = {p.name: tensors(p) for p in sorted(path.parent.glob("*.safetensors"))}
        texts = {
            p.name: hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted([*path.parent.glob("*.jsonl"), *path.parent.glob("*.txt")])
            if p.name != "log.jsonl" and not p.name.startswith("traceback")
        }
        values = (result["status"], metrics, result["flops"], weights, texts)
        found.append(((result["stage"],), values))
    return sorted(found, key=lambda one: one[0])


METRICS = (
    *("train_loss", "val_loss", "loss", "gold", "final.held_out.accuracy"),
    *("forecast.loss", "predicted.loss", "actual.loss"),
)


def mirrored(database: Path, but: Sequence[str] = ()) -> dict[str, list[tuple]]:
    """MLflow's rows (metric, step, value) by the key of their run.

    Args:
        database: Read only; without it there are no rows.
        but: Beginnings of keys to leave out.
    """
    if not database.exists():
        return {}
    found: dict[str, list[tuple]] = {}
    marks = ", ".join("?" * len(METRICS))
    with closing(sqlite3.connect(database, timeout=30)) as db:
        rows = db.execute(
            "select t.value, m.key, m.step, m.value from tags t "
            "join runs r on r.run_uuid = t.run_uuid join metrics m on m.run_uuid = t.run_uuid "
            "where t.key = 'scalelab.key' and r.lifecycle_stage = 'active' "
            f"and m.key in ({marks}) order by 1, 2, 3, 4",
            METRICS,
        ).fetchall()
    for key, *row in rows:
        if not key.startswith(tuple(but)):
            found.setdefault(key, []).append(tuple(row))
    return found
