"""The small sweep for a GPU on a CPU: the file itself, its numbers made smaller, interrupted and run again."""

import json
import os
import signal
import time

import pytest
from in_process import in_process
from observe import events
from source_tree import ROOT

FILE = str(ROOT / "sweeps" / "isoflop_gpu_small.yaml")
NAME = "isoflop_gpu_small"
TARGET = "9.6e9"
"""FLOPs of the forecast: ten times the largest budget, as in the file."""
SMALLER = {
    "recipe.data.source.vocab": 64,
    "recipe.data.source.topics": 8,
    "recipe.data.source.documents": 60000,
    "recipe.data.source.length": 17,
    "recipe.seq_len": 16,
    "recipe.model.n_layers": 1,
    "recipe.model.head_size": 2,
    "recipe.model.qk_norm": "false",
    "recipe.model.ff_multiple": 2,
    "recipe.optimizer.lr": 2e-2,
    "recipe.optimizer.width_ref": 8,
    "recipe.optimizer.batch_ref": 256,
    "recipe.batch.coefficient": 1,
    "recipe.batch.min_tokens": 32,
    "recipe.batch.max_tokens": 512,
    "recipe.min_steps": 30,
    "recipe.data.validation": 0.02,
    "recipe.evaluation.tokens": 16384,
    "recipe.evaluation.curve_points": 2,
    "recipe.evaluation.curve_tokens": 1024,
    "recipe.precision": "fp32",
    "design.budgets": "[1.2e8,2.4e8,4.8e8,9.6e8]",
    "design.tokens_per_param": 10,
    "target_flops": TARGET,
}
SWEEP = ("sweep", FILE, "--no-timing", *(w for k, v in SMALLER.items() for w in ("--set", f"{k}={v}")))


PLAN = (
    "plan",
    NAME,
    "--budget",
    TARGET,
    "--replicates",
    "200",
    "--override",
    "models of seconds",
    "--out",
    "plan",
)
LAUNCH = ("launch", "plan", "--set", "threads=1")


def results(world, name):
    """Bytes of the journal of each finished run of a sweep."""
    return {
        path.parent: (path.parent / "log.jsonl").read_bytes()
        for path in world.runs.glob(f"{name}/*/result.json")
    }


def unfinished(world, name, event):
    """Whether a run that has no result yet has logged such an event."""
    logs = (log for log in world.runs.glob(f"{name}/*/log.jsonl") if log.parent not in results(world, name))
    return any(f'"{event}"' in log.read_text() for log in logs)


def interrupt(world, argv, has_come):
    """Send Ctrl-C to a command once the moment has come, and return its output."""
    process = world.start(*argv)
    while not has_come():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=600)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert "Interrupted. Run the same command to resume." in stdout


def steps_trained_twice(run):
    """Steps of a run's journal that come again; and whoever resumes does so where the run was interrupted."""
    seen = events(run / "log.jsonl")
    left, resumed = ([e["step"] for e in seen if e["event"] == kind] for kind in ("interrupted", "resume"))
    assert resumed == left
    steps = [e["step"] for e in seen if e["event"] == "step"]
    return len(steps) - len(set(steps))


@pytest.fixture(scope="module")
def swept(worlds):
    """A world in which the sweep was interrupted and run again, and the journals at the interruption."""
    world = worlds("gpu_small", mlflow=False)
    interrupt(world, SWEEP, lambda: results(world, NAME) and unfinished(world, NAME, "step"))
    world.before = results(world, NAME)
    again = world(*SWEEP)
    assert again.returncode == 0, again.stderr
    world.again = again.stdout
    return world


def test_the_sweep_is_resumed_and_trains_nothing_twice(swept):
    done, every = swept.before, results(swept, NAME)

    assert 1 <= len(done) < len(every) == 22
    assert f"{len(done)} done already; {22 - len(done)} to train" in swept.again
    assert {run: every[run] for run in done} == done
    assert sum(steps_trained_twice(run) for run in every) == 0


def test_the_launch_is_resumed_and_its_frozen_forecast_is_scored(swept):
    planned = in_process(swept, *PLAN)
    assert planned.returncode == 0, planned.stderr
    plan = json.loads((swept.path / "plan" / "plan.json").read_text())
    frozen = (swept.path / "plan" / "forecast.json").read_bytes()
    name, digest = plan["name"], plan["forecast"]["digest"]

    interrupt(swept, LAUNCH, lambda: unfinished(swept, name, "checkpoint"))
    launched = swept(*LAUNCH)
    listed = in_process(swept, "runs", "--forecasts")

    assert launched.returncode == 0, launched.stderr + launched.stdout
    (run,) = results(swept, name)
    outcome = json.loads((swept.path / "reports" / name / "outcome.json").read_text())
    result = json.loads((run / "result.json").read_text())
    assert steps_trained_twice(run) == 0
    assert result["n_resumes"] == 1
    assert (swept.path / "plan" / "forecast.json").read_bytes() == frozen
    assert plan["reach"] == pytest.approx(10, rel=0.02)
    assert json.dumps(result["loss"]) in json.dumps(outcome)
    assert json.dumps(json.loads(frozen)["loss"]) in json.dumps(outcome)
    assert digest[:12] in listed.stdout
    assert "held" in launched.stdout or "did not hold" in launched.stdout
