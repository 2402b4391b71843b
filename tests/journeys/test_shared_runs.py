"""Sweeps that share runs train each of them once, also where the file system has no flock."""

import json
import shutil
import subprocess

import pytest
from listing_text import listing

from scalelab.train.run_directory import RunDir

NO_FLOCK = """
#include <errno.h>
int flock(int descriptor, int operation) { errno = ENOLCK; return -1; }
"""
SWEEPS = ("a", "b", "c", "d")


@pytest.fixture(scope="module")
def no_flock(tmp_path_factory):
    """A library that makes flock fail, as on some network file systems."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("no_flock")
    (folder / "no_flock.c").write_text(NO_FLOCK)
    command = ["cc", "-shared", "-fPIC", "-o", "no_flock.so", "no_flock.c"]
    subprocess.run(command, cwd=folder, check=True)
    return folder / "no_flock.so"


def test_four_sweeps_started_together_train_three_runs_once_each(worlds, undisturbed, no_flock):
    world = worlds("shared", mlflow=False)
    world.environ["LD_PRELOAD"] = str(no_flock)
    few = ("--no-timing", "--set", "design.budgets=[4e9]")
    started = [world.start("sweep", "journey.yaml", *few, "--set", f"name={n}") for n in SWEEPS]
    ended = [(process.communicate(timeout=240), process.returncode) for process in started]

    assert [code for _, code in ended] == [0] * 4, ended
    homes = sorted(world.runs.glob("*/*/result.json"))
    starts = [
        event["event"] for log in world.runs.glob("*/*/log.jsonl") for event in RunDir(log.parent).events()
    ].count("start")
    assert len(homes) == starts == 3
    theirs = {path.parent.name: path for path in undisturbed.runs.glob("journey/*/result.json")}
    for path in homes:
        ours, other = (json.loads(p.read_text()) for p in (path, theirs[path.parent.name]))
        assert (ours["loss"], ours["curve"]) == (other["loss"], other["curve"])
    for name in SWEEPS:
        assert "3 finished" in listing(world.runs, name)
