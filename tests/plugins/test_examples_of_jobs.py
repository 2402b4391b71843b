"""A design that is told, and an executor of threads, through the real command line."""

import json
import math
import os
from pathlib import Path
from types import SimpleNamespace

import observe
import pytest

from scalelab.launch.sweepfile import SweepFile
from scalelab.sweep import DESIGNS
from scalelab.testing.designs import check_design
from scalelab.testing.executors import check_executor

ROOT = Path(__file__).parents[2]

ZOOM = "design={kind: zoom, budget: 4e9, span: 8.0, tokens_per_param: 20, rounds: 2}"
FINE = ("--set", "recipe.model.head_size=2")
POOL = "launch.executor=pool"


@pytest.fixture
def world(examples, tmp_path, cache, tiny_text):
    made = observe.World(tmp_path / "world", cache)
    made.environ["PYTHONPATH"] = os.environ["PYTHONPATH"]
    (made.path / "journey.yaml").write_text(observe.SWEEP.replace("TEXT", str(tiny_text)))
    return made


def results(world, place):
    found = (json.loads(p.read_text()) for p in (world.runs / place).glob("*/result.json"))
    return {result["run"]: result["loss"] for result in found}


def test_the_pool_conforms(examples, tmp_path):
    check_executor("pool", tmp_path)


def test_the_zoom_conforms(examples):
    recipe = SweepFile.load(ROOT / "sweeps" / "isoflop.yaml").recipe
    design = DESIGNS["zoom"](budget=1e12, rounds=3)
    # A valley of loss with its minimum away from the first round's middle.
    check_design(
        design, recipe, lambda spec: SimpleNamespace(loss=abs(math.log(spec.n_tokens / 2e6)))
    )


def test_a_design_is_told_results_and_asks_again(world):
    dry = world("sweep", "journey.yaml", *FINE, "--set", ZOOM, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "3 runs" in dry.stdout
    assert "more runs follow from what these come to" in dry.stdout

    done = world("sweep", "journey.yaml", *FINE, "--set", ZOOM)
    assert done.returncode == 0, done.stderr
    assert "5 of 5 runs finished" in done.stdout
    assert len(results(world, "journey")) == 5
    manifest = json.loads((world.runs / "journey" / "sweep.json").read_text())
    assert len(manifest["runs"]) == 5

    again = world("sweep", "journey.yaml", *FINE, "--set", ZOOM)
    assert again.returncode == 0, again.stderr
    assert "5 of 5 runs finished" in again.stdout
    assert len(results(world, "journey")) == 5


def test_the_pool_carries_a_sweep_a_final_run_of_two_ranks_and_a_stage(world):
    small = ("sweep", "journey.yaml", "--set", "design.budgets=[4e9, 1e10, 2e10]")
    done = world(*small, "--set", POOL)
    assert done.returncode == 0, done.stderr
    carried = results(world, "journey")
    assert len(carried) == 9
    inline = world(*small, "--set", "name=inline", "--set", "launch.executor=inline")
    assert inline.returncode == 0, inline.stderr  # trained already: found, not done again
    assert not results(world, "inline")

    plan = world("plan", "journey", "--budget", "4e10", "--law", "kaplan", "--replicates", "50",
                 "--out", "plan")  # fmt: skip
    assert plan.returncode == 0, plan.stderr
    launched = world("launch", "plan", "--layout", "replicate=2", "--set", "executor=pool")
    assert launched.returncode == 0, launched.stderr
    (result,) = world.runs.glob(
        f"{json.loads((world.path / 'plan' / 'plan.json').read_text())['name']}/*/result.json"
    )
    assert json.loads(result.read_text())["layout"]["replicate"] == 2

    based = world(*small, "--set", "name=base", "--set", "recipe.seq_len=128", "--set",
                  "design.budgets=[1e10]")  # fmt: skip
    assert based.returncode == 0, based.stderr
    base = next((world.runs / "base").glob("*/result.json")).parent.relative_to(world.path)
    (world.path / "made.yaml").write_text(
        f"name: made\nbase: {base}\ndata: skills\ngrades: null\nexecutor: pool\nstages:\n"
        "- {kind: sft, name: sft, examples: 24, batch: 8, rates: {lr: 1e-2}}\n"
    )
    made = world("posttrain", "made.yaml")
    assert made.returncode == 0, made.stderr
    assert len(list((world.runs / "made").glob("sft-*/result.json"))) == 1
