"""A post-training on Slurm and Ray, a stage's process killed: what the executor of this machine gives."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest

from scalelab.data.hashing import sha256
from scalelab.leases import holder
from scalelab.posttrain.pipeline import PosttrainFile
from scalelab.posttrain.run import plan_posttrain, run_posttrain
from scalelab.train.run_directory import LEASE

STAGES = [
    {"kind": "sft", "name": "sft", "examples": 32, "batch": 8, "epochs": 12, "rates": {"lr": 1e-2}},
    {"kind": "preferences", "name": "pairs", "first": "sft", "judge": "gold", "prompts": 24, "n_new": 8},
    {"kind": "reward", "name": "rm", "start": "sft", "pairs": "pairs", "batch": 8, "rates": {"lr": 1e-2}},
    {"kind": "dpo", "name": "dpo", "start": "sft", "pairs": "pairs", "batch": 8, "rates": {"lr": 1e-3}},
]


@pytest.fixture(autouse=True)
def unmirrored(monkeypatch):
    monkeypatch.setattr("scalelab.tracking.sync.has_mlflow", lambda: False)


@pytest.fixture
def run(base):
    """A function that runs the stages in a directory on an executor; paths are relative, as people write them."""

    def run(folder, executor):
        os.chdir(folder)
        text = {
            "name": "made",
            "base": os.path.relpath(base),
            "data": "skills",
            "stages": STAGES,
            "grades": None,
        }
        file = PosttrainFile.model_validate(text | {"executor": executor})
        plan = plan_posttrain(file, folder / "runs")
        finished = run_posttrain(plan)
        assert not finished.failed, finished.reasons
        return {stage.name: outputs(stage.dir) for stage in plan.stages}

    before = os.getcwd()
    yield run
    os.chdir(before)


def outputs(stage_dir):
    """Numbers and digests that a stage left, without times."""
    result = stage_dir.result()
    metrics = {name: value for name, value in result.metrics.items() if "seconds" not in name}
    return result.id, result.flops, metrics, {p.name: sha256(p) for p in stage_dir.path.glob("*.safetensors")}


@pytest.fixture(scope="module")
def local():
    """Outputs on the local executor, once they were asked for."""
    return {}


@pytest.fixture
def expected(local, run, tmp_path):
    if not local:
        (tmp_path / "local").mkdir()
        local |= run(tmp_path / "local", "local")
    return local


@contextmanager
def killed(log, killed_pids, more=()):
    """Kill -9 the process of a stage once it has made a few steps, and further processes."""
    stop = threading.Event()

    def watch():
        while not stop.wait(0.002):
            if log.exists() and log.read_text().count('"step"') > 5:
                if (found := holder(log.parent, LEASE)) is not None:
                    for pid in (found.pid, *(each.pid for each in more)):
                        os.kill(pid, signal.SIGKILL)
                    killed_pids.append(found.pid)
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def disturbed(run, folder, executor, expected, more=()):
    """Run on an executor with the process of `sft` killed, and `more` with it, and return the outputs."""
    folder.mkdir()
    pids = []
    with killed(folder / "runs/made" / f"sft-{expected['sft'][0]}" / "log.jsonl", pids, more):
        found = run(folder, executor)
    assert pids
    assert pids[0] != os.getpid()
    return found


def test_on_slurm(slurm_cluster, run, expected, tmp_path):
    executor = {"kind": "slurm", "gpus": 0, "cpus": 2, "workers": 1, "minutes": 30, "poll_s": 0.5}
    assert disturbed(run, tmp_path / "slurm", executor, expected) == expected


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_on_ray(ray_cluster, run, expected, tmp_path):
    executor = {"kind": "ray", "address": ray_cluster.address, "poll_s": 0.1, "connect_s": 300.0}
    assert disturbed(run, tmp_path / "ray", executor, expected) == expected


def test_by_workers_that_are_started_by_hand(run, expected, tmp_path):
    """The first one is killed with the stage that it runs; the second one resumes it."""
    folder, workers, over = tmp_path / "workers", [], threading.Event()

    def start_workers():
        while not (folder / "runs/made/.queue/queue.json").exists():
            if over.wait(0.02):
                return
        command = [sys.executable, "-m", "scalelab", "worker", str(folder / "runs/made"), "--slots", "1"]
        workers.append(subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL))
        workers[0].wait()
        workers.append(subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL))

    thread = threading.Thread(target=start_workers)
    thread.start()
    executor = {"kind": "workers", "poll_s": 0.1, "idle_s": 1.0}
    try:
        found = disturbed(run, folder, executor, expected, more=workers)
    except BaseException:
        for each in workers:
            each.kill()
        raise
    finally:
        over.set()
        thread.join()

    assert found == expected
    assert [each.wait() for each in workers] == [-signal.SIGKILL, 0]
