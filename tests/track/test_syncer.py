"""The syncer as a real process: killed, orphaned, refused, without MLflow."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from scalelab.errors import TrackError
from scalelab.leases import hold
from scalelab.tracking import sync as sync_module
from scalelab.tracking.sync import Syncer, sync

WITHOUT_MLFLOW = """
import sys, pathlib
sys.modules["mlflow"] = None
from scalelab.errors import TrackError
from scalelab.records.listing import list_runs
from scalelab.tracking.report_mirror import log_fit
from scalelab.tracking.sync import Syncer, sync
from scalelab.records.evidence import evidence
from scalelab.records.run_table import run_table
from scalelab.tracking.ui import ui
root = pathlib.Path(sys.argv[1])
states = [run.state for run in list_runs(root, "fam").runs]
print(len(evidence(run_table(root, "fam"), "total")[0]), states.count("finished") == 1)
print(Syncer.start(root, "fam").finish())
fit = {"laws": {}, "n_runs": 1, "param_count": "total"}
mirror_fit = lambda: log_fit(root, "fam", root, fit)
for act in (lambda: sync(root, "fam"), mirror_fit, lambda: ui(root, 1)):
    try:
        act()
    except TrackError as error:
        print(error.problem, "|", error.fix)
"""
ORPHAN = """
import sys, pathlib, time
from scalelab.tracking.sync import Syncer
handle = Syncer.start(pathlib.Path(sys.argv[1]), "fam")
print(handle._process.pid, flush=True)
time.sleep(600)
"""


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_killed_at_any_moment_it_loses_and_doubles_nothing(family, db, start, until):
    """Six runs write their journals while the syncer is killed three times."""
    draw = random.Random(3)
    runs, enough = family.plan(6), threading.Event()

    def train():
        step = 0
        while not enough.wait(0.2):
            for run in runs:
                family.train(run, range(step, step + 2))
            step += 2
        for run in runs:
            family.end(run, t=2 * step)

    def n_rows():
        return db.ask("select count(*) from metrics")[0][0]

    training = threading.Thread(target=train)
    training.start()
    try:
        for _ in range(3):
            process, before = start(), n_rows()
            until(lambda b=before: n_rows() > b, "rows")
            time.sleep(draw.uniform(0, 0.6))
            process.kill()
            process.wait()
    finally:
        enough.set()
        training.join()
    last = start()
    last.communicate(timeout=300)

    assert last.returncode == 0
    assert db.metrics() == family.expected()
    assert {status for _, status, _ in db.runs().values()} == {"FINISHED"}


def test_a_handle_mirrors_what_happens_after_it_was_started(family, db):
    family.plan(2)
    handle = Syncer.start(family.root, "fam")
    family.train("run00", range(60))
    family.end("run00")

    assert handle.finish() is None
    assert db.metrics() == family.expected()
    assert (family.root / "fam" / "sync.log").read_text() == ""


def test_it_makes_its_last_pass_when_the_sweep_is_killed(family, db, until):
    family.plan(1)
    sweep = subprocess.Popen(
        [sys.executable, "-c", ORPHAN, str(family.root)], stdout=subprocess.PIPE, text=True
    )
    pid = int(sweep.stdout.readline())
    family.train("run00", range(30))
    sweep.kill()
    sweep.communicate()

    until(lambda: not is_alive(pid), "the syncer to leave")
    assert db.metrics() == family.expected()
    assert db.runs()["run00"][1] == "KILLED"


def test_a_database_deleted_under_it_is_filled_again(family, db, start, until, empty_mlflow):
    family.plan(1)
    family.train("run00", range(30))
    process = start(stderr=subprocess.PIPE)
    until(lambda: "run00" in db.metrics(), "the first rows")

    copy = db.path.with_name("copy.db")
    shutil.copy(empty_mlflow, copy)
    os.replace(copy, db.path)
    family.train("run00", range(30, 60))
    _, told = process.communicate(timeout=60)

    assert process.returncode == 0, told
    assert db.metrics() == family.expected()


def test_a_store_that_cannot_be_written_is_told_in_three_lines(family, db, once, empty_mlflow):
    """The real thing: SQLite opens the file read-only, whoever we are."""
    family.plan(1)
    family.train("run00", range(3))
    uri = f"sqlite:///file:{db.path}?mode=ro&uri=true"

    code, told = once("--patience", "1", environ={"MLFLOW_TRACKING_URI": uri})

    error = told[told.index("error:") :].splitlines()
    assert code == 3
    assert "attempt to write a readonly database" in error[0]
    assert error[1:] == [
        f"  where: {uri}",
        "  fix:   nothing is lost: repair the store, then run `scalelab sync`",
    ]
    assert once() == (0, "")
    assert db.metrics() == family.expected()


def test_a_directory_where_the_database_should_be(family, db, monkeypatch):
    monkeypatch.setattr(sync_module, "SYNC_PATIENCE_S", 0.0)
    family.plan(1)
    db.path.unlink()
    db.path.mkdir()
    began = time.monotonic()

    with pytest.raises(TrackError, match="unable to open database file") as error:
        sync(family.root, "fam")

    assert time.monotonic() - began < 20  # MLflow by itself tries for more than 100
    assert error.value.where.endswith("my runs/mlflow.db")


def test_a_server_that_accepts_and_never_answers(family, once):
    family.plan(1)
    family.train("run00", range(3))
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        environ = {"MLFLOW_TRACKING_URI": uri, "MLFLOW_HTTP_REQUEST_TIMEOUT": "1"}
        code, told = once("--patience", "1", environ=environ)

    assert code == 3
    assert "Read timed out" in told
    assert f"where: {uri}" in told


def test_a_pass_waits_for_another_writer_and_says_so(family, monkeypatch):
    monkeypatch.setattr(sync_module, "SYNC_PATIENCE_S", 0.2)
    monkeypatch.setattr(sync_module, "WRITER_PATIENCE_S", 0.2)
    family.plan(1)
    with (
        hold(family.root / ".sync", "taken", "wait"),
        pytest.raises(TrackError, match="another process is writing to the mirror: process") as error,
    ):
        sync(family.root, "fam")
    assert error.value.fix == "wait for it to end, then run `scalelab sync`"

    assert sync(family.root, "fam") == "fam: up to date"


def test_syncing_by_hand_while_the_sweep_is_trained(family, db):
    """The lease of the sweep's driver is held: what has begun is running, not interrupted."""
    family.plan(2)
    family.train("run00", range(3))
    with hold(family.root / "fam" / "lock", "taken", "wait"):
        sync(family.root, "fam")

    states = {key: (status, tags["scalelab.state"]) for key, (_, status, tags) in db.runs().items()}
    assert states == {"sweep:fam": ("RUNNING", "running"), "run00": ("RUNNING", "running")}


def test_one_that_takes_too_long_is_ended_and_told(family):
    family.plan(1)
    handle = Syncer.start(family.root, "fam")

    told = handle.finish(timeout_s=0.0)

    assert told.startswith("MLflow is behind: scalelab sync catches up")
    assert handle._process.returncode == -signal.SIGKILL


def test_without_mlflow_everything_else_works(family):
    family.plan(1)
    family.train("run00", range(3))
    family.end("run00")

    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_MLFLOW, str(family.root)], capture_output=True, text=True
    )

    missing = "MLflow is not installed, so there is nothing to mirror to"
    missing += " | pip install mlflow, then: scalelab sync"
    assert done.stdout.splitlines() == [
        "1 True",
        "MLflow is not installed: pip install mlflow, then scalelab sync",
        *[missing] * 3,
    ]


def test_a_part_of_mlflow_is_not_enough(family, once, tmp_path):
    """mlflow-skinny has no sqlalchemy."""
    shim = tmp_path / "shim" / "sqlalchemy"
    shim.mkdir(parents=True)
    (shim / "__init__.py").write_text("raise ImportError('no sqlalchemy here')")
    family.plan(1)

    code, told = once(environ={"PYTHONPATH": str(shim.parent)})

    assert code == 2
    assert told.startswith("error: MLflow cannot be imported (no sqlalchemy here)")
