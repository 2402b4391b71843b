"""A sweep on a Ray cluster of two nodes: a worker, a node and the driver are killed, and each run is trained once."""

import json
import os
import signal
import time
from importlib.util import find_spec

import pytest
from observe import events, kill

pytestmark = [
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'scalelab[ray]'"),
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]
PATIENCE_S = 600


@pytest.fixture
def cluster(monkeypatch, tmp_path):
    """Two nodes of one core on this machine, which share a token of their own."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    (tmp_path / "token").write_text("5f" * 32)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.second = cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


def _wait(condition, process):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def test_what_is_killed_is_resumed_and_each_run_is_trained_once(worlds, undisturbed, cluster, tmp_path):
    world = worlds("ray", mlflow=False)
    world.environ["PYTHONPATH"] += ":" + os.environ.get("PYTHONPATH", "")
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
        world.environ.pop(name, None)
    executor = f"{{kind: ray, address: '{cluster.address}', token_file: '{tmp_path}/token', connect_s: 300}}"
    command = ("sweep", "journey.yaml", "--no-timing", "--set", f"launch.executor={executor}")

    def results():
        return {path.parent.name: path for path in world.runs.glob("journey/*/result.json")}

    def working():
        """Processes that have begun a run and not ended it."""
        logs = [events(log) for log in world.runs.glob("journey/*/log.jsonl")]
        return [log[-1]["pid"] for log in logs if log and log[-1]["event"] == "start"]

    driver = world.start(*command)
    _wait(working, driver)
    kill(working()[:1])
    _wait(lambda: len(results()) >= 2, driver)
    cluster.remove_node(cluster.second, allow_graceful=False)
    _wait(lambda: len(results()) >= 3, driver)
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    before = {run: path.stat().st_mtime_ns for run, path in results().items()}
    cluster.add_node(num_cpus=1)
    again = world(*command)

    assert again.returncode == 0, again.stderr
    assert {run: results()[run].stat().st_mtime_ns for run in before} == before
    theirs = {path.parent.name: path for path in undisturbed.runs.glob("journey/*/result.json")}
    assert len(results()) == len(theirs) > 5
    for run, path in results().items():
        a, b = (json.loads(p.read_text()) for p in (path, theirs[run]))
        assert (a["loss"], a["curve"], a["train_curve"]) == (b["loss"], b["curve"], b["train_curve"])
