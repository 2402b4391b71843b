"""MLflow away, missing or read-only while a sweep trains: training does not notice.

It trains in this process and the mirror is repaired in it: another one would import torch or MLflow each
time. The mirror that follows the training is a process of its own, as always.
"""

import shutil
import sqlite3
import subprocess

import pytest
from in_process import in_process

from scalelab.errors import TrackError
from scalelab.tracking import sync as sync_module
from scalelab.tracking.sync import sync

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
INLINE = ("--no-timing", "--set", "launch.executor=inline")
SWEEP = ("sweep", "journey.yaml", "--set", "design.budgets=[4e9]", *INLINE)


def counts(world):
    """Active runs and metric rows in the store that a world keeps for itself."""
    with sqlite3.connect(world.runs / "mlflow.db") as db:
        runs = db.execute("select count(*) from runs where lifecycle_stage = 'active'").fetchone()
        rows = db.execute("select count(*), count(distinct run_uuid || key || step) from metrics").fetchone()
    return runs[0], rows


@pytest.fixture(scope="module")
def undisturbed(worlds):
    """A world in which nothing happened to the sweep or to its mirror."""
    world = worlds("healthy")
    assert in_process(world, *SWEEP).returncode == 0
    return world


def losses(world):
    return {
        p.parent.name: p.read_text().split('"loss": ')[1][:18]
        for p in world.runs.glob("journey/*/result.json")
    }


def repaired(world, undisturbed, times=1, database=None):
    """Whether a sync, so many times, makes the mirror whole and no more than whole.

    Given MLflow's database of no runs, it does not make one first.
    """
    if database is not None:
        shutil.copy(database, world.runs)
    for _ in range(times):
        sync(world.runs, None)
    return counts(world) == counts(undisturbed)


def test_a_server_that_is_not_there(worlds, undisturbed, monkeypatch):
    world = worlds("no-server")
    world.environ["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:9"
    done = in_process(world, *SWEEP)

    assert done.returncode == 0, done.stderr
    assert "scalelab sync" in done.stdout
    assert losses(world) == losses(undisturbed)
    with monkeypatch.context() as patch:
        patch.setattr(sync_module, "SYNC_PATIENCE_S", 0.0)
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        with pytest.raises(TrackError) as refused:
            sync(world.runs, None)
    assert refused.value.where == "http://127.0.0.1:9"
    assert repaired(world, undisturbed, times=2)


def test_mlflow_not_installed(worlds, undisturbed, empty_mlflow):
    world = worlds("not-installed")
    world.forget_mlflow()
    done = in_process(world, *SWEEP)
    assert done.returncode == 0, done.stderr
    assert "MLflow is not installed" in done.stdout
    assert losses(world) == losses(undisturbed)
    assert in_process(world, "sync").returncode == 2
    assert repaired(world, undisturbed, database=empty_mlflow)


def test_a_store_that_may_not_be_written(worlds, undisturbed, empty_mlflow):
    """A SQLite file on a disk mounted read-only, which binds root too."""
    world = worlds("read-only")
    store = world.path / "store"
    store.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(store)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a read-only disk needs root")
    try:
        world.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{store}/mlflow.db"
        done = in_process(world, *SWEEP)
        refused = in_process(world, "sync")
    finally:
        subprocess.run(["umount", "-l", str(store)], check=True)

    assert done.returncode == 0, done.stderr
    assert "scalelab sync" in done.stdout
    assert losses(world) == losses(undisturbed)
    assert refused.returncode == 2
    assert refused.stderr.count("\n  fix:   ") == 1
    assert repaired(world, undisturbed, database=empty_mlflow)
