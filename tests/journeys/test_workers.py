"""Workers on one directory, some of them killed: each run is trained once, to the same last bit."""

import json
import os
import signal
import time

import pytest
from observe import descendants, kill

from scalelab.train.run_directory import RunDir

PATIENCE_S = 240


def _ends(runs):
    return [
        event["event"] for log in runs.glob("*/*/log.jsonl") for event in RunDir(log.parent).events()
    ].count("end")


def test_five_workers_of_which_two_are_killed_train_each_run_once(worlds, undisturbed):
    world = worlds("workers", mlflow=False)
    queued = world("sweep", "journey.yaml", "--prepare", "--set", "recipe.min_steps=20")
    assert queued.returncode == 0, queued.stderr
    command = next(line for line in queued.stdout.splitlines() if "scalelab worker" in line).split()[1:]
    workers = [world.start(*command, "--slots", "1") for _ in range(5)]
    deadline = time.monotonic() + PATIENCE_S
    while not any(world.runs.glob("*/*/log.jsonl")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for worker in workers[:2]:
        kill([*descendants(worker.pid), worker.pid])
    ended = [(worker.communicate(timeout=PATIENCE_S), worker.returncode) for worker in workers]

    assert [code for _, code in ended] == [-signal.SIGKILL] * 2 + [0] * 3, ended
    theirs = {path.parent.name: path for path in undisturbed.runs.glob("journey/*/result.json")}
    ours = {path.parent.name: path for path in world.runs.glob("journey/*/result.json")}
    assert len(ours) == len(theirs) == _ends(world.runs)
    for run, path in ours.items():
        a, b = (json.loads(p.read_text()) for p in (path, theirs[run]))
        assert (a["loss"], a["curve"]) == (b["loss"], b["curve"])
    again = world(*command)
    assert (again.returncode, "0 left" in again.stdout) == (0, True)


@pytest.mark.parametrize("change", ["token", "directory", "minutes"])
def test_a_worker_refuses_what_it_cannot_use(worlds, change):
    world = worlds(f"refused-{change}", mlflow=False)
    os.makedirs(world.runs / "journey")
    argv = {
        "token": ("runs/journey", "--token", "another"),
        "directory": ("runs/nothing",),
        "minutes": ("runs/journey", "--minutes", "-1"),
    }[change]
    refused = world("worker", *argv)
    assert refused.returncode == 2
    assert "where:" in refused.stderr
    assert "fix:" in refused.stderr
