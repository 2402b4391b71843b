"""From a sweep to its final run, through the real command line: plan, launch, what came true."""

import json
import os
import shutil
import signal
import sqlite3
import time

import pytest
from in_process import in_process
from observe import born, descendants, living

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
"""A deprecation that MLflow's own use of its packages sets off; it runs in this process here."""
BUDGET = "6e10"
REASON = "runs of seconds support no forecast"
PLAN = ("plan", "journey", "--budget", BUDGET, "--law", "kaplan", "--replicates", "200", "--override", REASON)
"""Kaplan's law has no floor: three slices of so small a text do not show one."""
LAUNCH = ("launch", "plan", "--set", "threads=1")
"""By default a final run computes on every core: for steps of a millisecond, beside other tests, mostly waiting."""


@pytest.fixture(scope="module")
def planned(undisturbed, worlds):
    """A world with a finished sweep and a plan from it."""
    world = worlds("planned")
    shutil.copytree(undisturbed.runs, world.runs)
    done = in_process(world, *PLAN, "--out", "plan")
    assert done.returncode == 0, done.stderr
    world.said = done.stdout
    return world


@pytest.fixture(scope="module")
def launched(planned):
    """The same world once the final run has come to its end."""
    done = planned(*LAUNCH)
    assert done.returncode == 0, done.stderr + done.stdout
    planned.launch_said = done.stdout
    return planned


def plan_of(world):
    return json.loads((world.path / "plan" / "plan.json").read_text())


def final_dir(world):
    (path,) = world.runs.glob(f"{plan_of(world)['name']}/*/result.json")
    return path.parent


def copied(world, worlds, name):
    """Another world with the same runs and the same plan, and no mirror."""
    other = worlds(name, mlflow=False)
    shutil.copytree(world.runs, other.runs, dirs_exist_ok=True)
    shutil.copytree(world.path / "plan", other.path / "plan")
    return other


def test_a_plan_says_what_to_train_and_freezes_its_forecast(planned):
    plan = plan_of(planned)
    forecast = json.loads((planned.path / "plan" / "forecast.json").read_text())

    assert plan["schema"] == 2
    assert plan["target"]["flops"] == float(BUDGET)
    assert plan["reach"] == pytest.approx(float(BUDGET) / 2.4e10, rel=0.02)
    assert plan["forecast"]["digest"] == forecast["digest"]
    assert "next: scalelab launch plan" in planned.said
    for name in ("README.md", "regret.png", "regret.svg"):
        assert (planned.path / "plan" / name).exists(), name


def test_the_same_plan_again_keeps_the_forecast_that_was_frozen(planned):
    before = (planned.path / "plan" / "forecast.json").read_bytes()
    again = in_process(planned, *PLAN, "--out", "plan")

    assert again.returncode == 0, again.stderr
    assert (planned.path / "plan" / "forecast.json").read_bytes() == before


def test_a_dry_run_of_a_launch_trains_nothing(planned):
    dry = in_process(planned, "launch", "plan", "--dry-run")

    assert dry.returncode == 0, dry.stderr
    assert "extrapolated" in dry.stdout
    assert not list(planned.runs.glob(f"{plan_of(planned)['name']}/*/log.jsonl"))


def test_what_torchrun_needs_is_written_down_and_nothing_is_started(planned, worlds):
    world = copied(planned, worlds, "prepared")
    options = ("--prepare", "--layout", "shard=2", "--set", "checkpoint_s=9")
    said = in_process(world, "launch", "plan", *options)
    (path,) = world.runs.glob(f"{plan_of(world)['name']}/*/job.json")
    known = json.loads(path.read_text())

    assert said.returncode == 0, said.stderr
    assert f"-m scalelab.jobs.worker runs/{path.parent.relative_to(world.runs)}" in said.stdout
    assert known["settings"]["layout"]["shard"] == 2
    assert known["processes"] == 2
    assert known["settings"]["checkpoint_s"] == 9
    assert not (path.parent / "log.jsonl").exists()


def test_a_launch_ends_with_predicted_and_actual(launched):
    plan, result = plan_of(launched), json.loads((final_dir(launched) / "result.json").read_text())
    out = launched.path / "reports" / plan["name"]
    outcome = json.loads((out / "outcome.json").read_text())

    assert result["status"] == "finished"
    assert result["layout"]["replicate"] == 1
    assert f"{result['loss']:.4f}" in launched.launch_said
    assert "held" in launched.launch_said or "did not hold" in launched.launch_said
    assert json.dumps(result["loss"]) in json.dumps(outcome)
    assert (out / "README.md").exists()


def test_the_outcome_is_in_the_ledger_and_in_mlflow(launched):
    listed = in_process(launched, "runs", "--forecasts")
    with sqlite3.connect(launched.runs / "mlflow.db") as db:
        rows = dict(
            db.execute(
                "select m.key, m.value from metrics m join runs r on r.run_uuid = m.run_uuid "
                "where r.name = 'outcome'"
            ).fetchall()
        )
    result = json.loads((final_dir(launched) / "result.json").read_text())

    assert listed.returncode == 0, listed.stderr
    assert plan_of(launched)["forecast"]["digest"][:12] in listed.stdout
    assert "held" in listed.stdout or "missed" in listed.stdout
    assert rows["actual.loss"] == result["loss"]
    assert rows["predicted.loss"] == pytest.approx(plan_of(launched)["loss"], rel=0.05)


def test_launched_again_it_trains_nothing_and_says_the_same(launched):
    before = (final_dir(launched) / "log.jsonl").read_bytes()
    again = in_process(launched, *LAUNCH)

    assert again.returncode == 0, again.stderr
    assert "Already trained" in again.stdout
    assert (final_dir(launched) / "log.jsonl").read_bytes() == before


def test_the_outcome_can_join_the_next_fit(launched):
    table = in_process(launched, "runs", plan_of(launched)["name"], "--out", "final.csv")
    exported = in_process(launched, "export", str(final_dir(launched)), "checkpoint")

    assert table.returncode == 0, table.stderr
    assert (launched.path / "final.csv").read_text().count("finished") == 1
    assert exported.returncode == 0, exported.stderr
    assert (launched.path / "checkpoint" / "model.safetensors").exists()


def test_killed_and_launched_again_it_ends_with_the_same_loss(launched, planned, worlds):
    world = copied(planned, worlds, "killed")
    shutil.rmtree(world.runs / plan_of(world)["name"])
    shutil.rmtree(world.runs / "forecasts")
    command = (*LAUNCH, "--set", "checkpoint_s=0.1")
    process = world.start(*command)
    log = world.runs / plan_of(world)["name"]

    def journalled(event):
        return any(f'"{event}"' in p.read_text() for p in log.glob("*/log.jsonl"))

    while not journalled("checkpoint"):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    below = {pid: born(pid) for pid in descendants(process.pid)}
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 120
    while living(below) and time.monotonic() < deadline:
        time.sleep(0.05)
    process = world.start(*command)
    while not journalled("resume") and process.poll() is None:
        time.sleep(0.05)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=120)
    done = world(*command)

    assert done.returncode == 0, done.stderr
    ours, theirs = (json.loads((final_dir(w) / "result.json").read_text()) for w in (world, launched))
    assert ours["loss"] == theirs["loss"]


def test_an_altered_forecast_is_refused(planned, worlds):
    world = copied(planned, worlds, "altered")
    path = world.path / "plan" / "forecast.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"loss": record["loss"] * 1.01}))
    refused = in_process(world, "launch", "plan")

    assert refused.returncode == 2
    assert "changed after it was frozen" in refused.stderr
    assert "fix:" in refused.stderr


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("plan", "journey", "--gpus", "8", "--gpu", "h1000", "--days", "3"), "h1000"),
        (("plan", "journey", "--budget", "1e11", "--days", "3"), "--days"),
        (("launch", "nowhere"), "no plan"),
        (("launch", "plan", "--layout", "tensor=3"), "divide"),
        (("launch", "plan", "--layout", "sideways=2"), "sideways"),
        (("launch", "plan", "--set", "retrys=2"), "retries"),
    ],
)
def test_what_cannot_be_is_refused_in_three_lines(planned, argv, words):
    refused = in_process(planned, *argv)

    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert words in refused.stderr
    assert "where:" in refused.stderr
    assert "fix:" in refused.stderr
    assert "Traceback" not in refused.stderr
