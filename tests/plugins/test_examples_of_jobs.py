"""A design that is told, and an executor of threads, through the real command line."""

import json
import math
import os
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import observe
import pytest
from in_process import in_process

from scalelab.hardware.layout import Layout
from scalelab.jobs import EXECUTORS
from scalelab.jobs.base import Job, JobResources
from scalelab.jobs.driver import JobList, drive
from scalelab.jobs.limits import Limits
from scalelab.jobs.settings import LaunchConfig
from scalelab.jobs.view import JobLabels, LiveView
from scalelab.launch.job_settings import FinalSettings
from scalelab.posttrain.jobs import jobs_of
from scalelab.sweep import DESIGNS
from scalelab.sweep.file import SweepFile
from scalelab.testing.designs import check_design
from scalelab.testing.executors import check_executor
from scalelab.testing.stages import planned_stages, tiny_base
from scalelab.train.run_directory import RunDir

ROOT = Path(__file__).parents[2]

ZOOM = "design={kind: zoom, budget: 4e9, span: 8.0, tokens_per_param: 20, rounds: 2}"
FINE = ("--no-timing", "--set", "recipe.model.head_size=2")
POOL = "launch.executor=pool"


@pytest.fixture
def world(examples, tmp_path, cache, tiny_text):
    made = observe.World(tmp_path / "world", cache)
    made.environ["PYTHONPATH"] = os.environ["PYTHONPATH"]
    made.forget_mlflow()  # the mirror takes longer than the rest, and is not looked at
    (made.path / "journey.yaml").write_text(observe.SWEEP.replace("TEXT", str(tiny_text)))
    return made


def results(world, place):
    found = (json.loads(p.read_text()) for p in (world.runs / place).glob("*/result.json"))
    return {result["run"]: result["loss"] for result in found}


def test_the_pool_conforms(examples, tmp_path):
    check_executor("pool", tmp_path)


def test_the_zoom_conforms(examples):
    recipe = SweepFile.load(ROOT / "sweeps" / "isoflop.yaml", ["recipe.schedule.trunk=false"]).recipe
    design = DESIGNS["zoom"](budget=1e12, rounds=3)
    # A valley of loss with its minimum away from the first round's middle.
    check_design(design, recipe, lambda spec: SimpleNamespace(loss=abs(math.log(spec.n_tokens / 2e6))))


def test_a_design_is_told_results_and_asks_again(world):
    dry = in_process(world, "sweep", "journey.yaml", *FINE, "--set", ZOOM, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "3 runs" in dry.stdout
    assert "The design adds runs" in dry.stdout

    done = world("sweep", "journey.yaml", *FINE, "--set", ZOOM)
    assert done.returncode == 0, done.stderr
    assert "5 of 5 runs finished" in done.stdout
    assert len(results(world, "journey")) == 5
    manifest = json.loads((world.runs / "journey" / "sweep.json").read_text())
    assert len(manifest["runs"]) == 5

    again = in_process(world, "sweep", "journey.yaml", *FINE, "--set", ZOOM)
    assert again.returncode == 0, again.stderr
    assert "5 of 5 runs finished" in again.stdout
    assert len(results(world, "journey")) == 5


def test_the_pool_carries_a_sweep(world):
    small = ("--no-timing", "--set", "design.budgets=[4e9]")
    done = world("sweep", "journey.yaml", *small, "--set", POOL)
    assert done.returncode == 0, done.stderr
    assert len(results(world, "journey")) == 3


def driven(jobs, preload=()):
    """How jobs end that the pool carries."""
    with closing(EXECUTORS["pool"]().start(preload)) as executor, LiveView(JobLabels()) as view:
        return drive(JobList(jobs), executor, view, Limits()).ended


def test_the_pool_carries_a_final_run_of_two_ranks(examples, tmp_path, tiny_spec):
    spec = tiny_spec(n_steps=12)
    run_dir = RunDir(tmp_path / "runs" / spec.id)
    run_dir.create(spec)
    settings = FinalSettings.of(Layout(replicate=2), LaunchConfig()).to_json()
    final = Job(spec.id, run_dir, "final", resources=JobResources(2, 1), settings=settings)

    assert driven([final])[spec.id].outcome == "done"
    assert run_dir.result().layout["replicate"] == 2


def test_the_pool_carries_stages_in_their_order(examples, tmp_path, tiny_corpus):
    base = tiny_base(tmp_path / "base", tiny_corpus.digest)
    common = {"kind": "sft", "examples": 8, "batch": 4, "rates": {"lr": 1e-2}}
    stages = [common | {"name": "one"}, common | {"name": "two", "start": "one"}]
    planned = planned_stages(stages, base=base, root=tmp_path / "runs")

    ended = driven(jobs_of(planned))

    assert {name: e.outcome for name, e in ended.items()} == {"one": "done", "two": "done"}
    first, second = (p.dir.result().finished_ms for p in planned)
    assert first < second
