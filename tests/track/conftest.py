"""Run directories by hand, and what MLflow's database must hold after they were mirrored."""

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from scalelab.records.sweep_manifest import PlannedRun, SweepManifest
from scalelab.train.run_directory import RunDir
from scalelab.train.spec import RunResult

HERE = Path(__file__).parent
THEIRS = ("ignore:The ``noload`` loader strategy",)
"""Deprecations that MLflow's own use of its packages sets off; ours stay errors."""
T0 = 1_700_000_000_000
SPEC = "model: {kind: transformer, n_layers: 2}\nbatch_tokens: 256\nn_steps: 60\nseed: 0\n"
JOURNALED = {
    "step": {"loss": "train_loss", "lr": "lr", "grad_norm": "grad_norm"},
    "eval": {"loss": "val_loss"},
}


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent == HERE:
            for words in THEIRS:
                item.add_marker(pytest.mark.filterwarnings(words))


class Family:
    """A sweep on the disk, made by hand: planned runs, journals, results."""

    def __init__(self, root, sweep="fam"):
        self.root, self.sweep, self.planned = root, sweep, []

    def plan(self, n, prefix="run", **changes):
        """Plan n runs of this sweep and write the manifest."""
        for i in range(n):
            run = f"{prefix}{len(self.planned):02d}"
            base = PlannedRun(
                run=run,
                dir=f"{self.sweep}/{run}",
                flops_planned=1e12,
                n_params_planned=1e5,
                n_params=100_000 + i,
                n_tokens_planned=1.6e6,
                n_tokens=1_600_000,
                n_steps=60,
                flops=1e12,
                seed=0,
            )
            self.planned.append(replace(base, **changes))
            if "dir" not in changes:
                self.dir(run).path.mkdir(parents=True)
                self.dir(run).spec_path.write_text(SPEC)
        return self.write()

    def write(self, **changes):
        manifest = SweepManifest(
            sweep=self.sweep,
            digest="abc",
            param_count="total",
            question="What is best?",
            prediction="the middle",
            target_flops=1e14,
            config_yaml="name: fam\n",
            created_ms=T0 - 1000,
            runs=tuple(self.planned),
        )
        replace(manifest, **changes).write(self.root)
        return [planned.run for planned in self.planned]

    def dir(self, run):
        return RunDir(self.root / self.sweep / run)

    def log(self, run, event, t, **values):
        with open(self.dir(run).log_path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"t": T0 + t, "event": event, **values}) + "\n")

    def train(self, run, steps, t=0):
        """Journal some steps, each with an evaluation every tenth."""
        if not self.dir(run).log_path.exists():
            self.log(run, "start", t, attempt=0, n_steps=60)
        for step in steps:
            self.log(run, "step", t + step, step=step, loss=5 / (step + 1), lr=0.1, grad_norm=1.0)
            if step % 10 == 0:
                self.log(run, "eval", t + step, step=step, loss=6 / (step + 1))

    def end(self, run, status="finished", reason=None, t=1000, **changes):
        self.log(run, "end", t, status=status, reason=reason)
        self.dir(run).write_result(self.result(run, status, reason, t, **changes))

    def replace_result(self, run, **changes):
        """Another result in the place of the one that is there; a run writes its own only once."""
        self.dir(run).result_path.unlink()
        self.dir(run).write_result(self.result(run, **changes))

    def result(self, run, status="finished", reason=None, t=1000, **changes):
        loss = 3.0 if status == "finished" else None
        values = {
            "run": run,
            "status": status,
            "reason": reason,
            "seed": 0,
            "n_params_total": 100_000,
            "n_params_non_embedding": 60_000,
            "n_params_matmul": 80_000,
            "n_params_active": 100_000,
            "flops_per_token": 625_000.0,
            "flops": 1.0e12,
            "flops_6nd": 9.6e11,
            "n_tokens": 1_600_000,
            "n_tokens_planned": 1_600_000,
            "n_tokens_unique": 1_600_000,
            "n_steps": 60,
            "batch_tokens": 256,
            "micro_batch_tokens": 256,
            "seq_len": 32,
            "loss": loss,
            "loss_se": 0.01,
            "bpb": loss and 1.5,
            "curve": [],
            "train_curve": [],
            "tokens_per_s": 1e5,
            "mfu": None,
            "train_s": 16.0,
            "eval_s": 1.0,
            "device": "cpu",
            "precision": "fp32",
            "threads": 1,
            "n_resumes": 0,
            "tokenizer": "bytes",
            "data_digest": "d1",
            "versions": {},
            "finished_ms": T0 + t,
        }
        return RunResult(**(values | changes))

    def expected(self):
        """Metric rows by run: {(metric, t, step, value)}, of each step the first."""
        rows = {}
        for planned in self.planned:
            run_dir, seen, found = RunDir(self.root / planned.dir), set(), set()
            text = run_dir.log_path.read_text() if run_dir.log_path.exists() else ""
            for line in text.split("\n")[:-1]:
                event = json.loads(line)
                for key, name in JOURNALED.get(event["event"], {}).items():
                    if (name, event["step"]) not in seen:
                        seen.add((name, event["step"]))
                        found.add((name, event["t"], event["step"], event[key]))
            if run_dir.result_path.exists():
                r = json.loads(run_dir.result_path.read_text())
                values = {name: r[name] for name in ("loss", "bpb", "flops", "n_tokens")}
                values |= {f"system/{name}": r[name] for name in ("train_s", "eval_s")}
                values |= {"system/mean_tokens_per_s": 1e5}
                found |= {
                    (name, r["finished_ms"], r["n_steps"], float(value))
                    for name, value in values.items()
                    if value is not None
                }
            if found or text:
                rows[planned.run] = found
        return rows


class Database:
    """What MLflow's SQLite file holds, read without MLflow."""

    def __init__(self, path):
        self.path = path

    def ask(self, sql, *values):
        # Not mode=ro: whoever reads first after a writer was killed has to roll its journal back.
        with sqlite3.connect(f"{self.path.as_uri()}?mode=rw", uri=True, timeout=20) as db:
            return db.execute(sql, values).fetchall()

    def runs(self):
        """Every run that is not deleted, by key: (id, status, tags). Doubles are an error."""
        found = self.ask(
            "select t.value, r.run_uuid, r.status from runs r join tags t using (run_uuid)"
            " where t.key = 'scalelab.key' and r.lifecycle_stage = 'active'"
        )
        assert len({key for key, _, _ in found}) == len(found), "doubled runs"
        return {
            key: (run, status, dict(self.ask("select key, value from tags where run_uuid=?", run)))
            for key, run, status in found
        }

    def metrics(self, sweeps=("sweep:fam",)):
        """Metric rows by run, as Family.expected has them. A doubled row is an error."""
        rows = {}
        for key, (run, _, _) in self.runs().items():
            if key in sweeps or key.startswith("fit:"):
                continue
            found = self.ask("select key, timestamp, step, value from metrics where run_uuid = ?", run)
            rows[key] = set(found)
            assert len(rows[key]) == len({row[:3:2] for row in found}) == len(found), "doubled rows"
        return rows

    def params(self, key):
        run = self.runs()[key][0]
        return dict(self.ask("select key, value from params where run_uuid = ?", run))


@pytest.fixture(scope="session")
def family_in():
    """A function that gives a sweep and its database in any root."""
    return lambda root, sweep="fam": (Family(root, sweep), Database(root / "mlflow.db"))


@pytest.fixture
def root(tmp_path, empty_mlflow, monkeypatch):
    """A root of runs with a database that is ready."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    path = tmp_path / "my runs"
    path.mkdir()
    shutil.copy(empty_mlflow, path / "mlflow.db")
    return path


@pytest.fixture
def family(root):
    return Family(root)


@pytest.fixture
def db(root):
    return Database(root / "mlflow.db")


@pytest.fixture
def another_family(root):
    """A function that makes a further sweep among the same runs."""
    return lambda sweep: Family(root, sweep)


@pytest.fixture
def start(root):
    """A function that starts a real syncer process; what still runs at the end is killed."""
    started = []

    def begin(*words, sweep="fam", environ=None, **pipes):
        process = subprocess.Popen(
            [sys.executable, "-m", "scalelab.tracking.sync", str(root), sweep, *words],
            stdin=subprocess.PIPE,
            env=os.environ | (environ or {}),
            text=True,
            **pipes,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def once(start):
    """A function that makes one full pass in a new process: (exit status, what it said)."""

    def run(*words, **changes):
        process = start("--once", *words, stderr=subprocess.PIPE, **changes)
        told = process.communicate(timeout=120)[1]
        return process.returncode, told

    return run


@pytest.fixture(scope="session")
def until():
    """A function that waits until a claim holds."""

    def wait(claim, what, timeout_s=180):
        deadline = time.monotonic() + timeout_s
        while not claim():
            assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
            time.sleep(0.05)

    return wait


@pytest.fixture(scope="session")
def free_port():
    """A function that finds a port that nobody listens on."""

    def find():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    return find
