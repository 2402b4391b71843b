"""The main job through the real command line: train, look, fit, go on, share."""

import json
import math
import shutil
import sqlite3

import pandas as pd
import pytest
from in_process import in_process

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
"""A deprecation that MLflow's own use of its packages sets off; it runs in this process here."""

SECOND = ("--set", "name=second", "--set", "design.replicates=1")


def losses(world, sweep="journey"):
    """Final loss of every run, by run id."""
    return {
        path.parent.name: json.loads(path.read_text())["loss"]
        for path in (world.runs / sweep).glob("*/result.json")
    }


def mlflow_rows(world, query):
    with sqlite3.connect(world.runs / "mlflow.db") as db:
        return db.execute(query).fetchall()


def test_a_sweep_trains_its_family_and_mirrors_it(undisturbed):
    found = losses(undisturbed)
    keys = mlflow_rows(
        undisturbed,
        "select value from tags t join runs r on r.run_uuid = t.run_uuid "
        "where t.key = 'scalelab.key' and r.lifecycle_stage = 'active'",
    )
    final = dict(
        mlflow_rows(
            undisturbed,
            "select t.value, m.value from tags t join metrics m on m.run_uuid = t.run_uuid "
            "where t.key = 'scalelab.key' and m.key = 'loss'",
        )
    )

    assert len(found) == 9
    assert sorted(k for (k,) in keys if not k.startswith(("sweep:", "fit:"))) == sorted(found)
    assert final == found


def test_runs_lists_what_there_is(undisturbed, tmp_path):
    every = in_process(undisturbed, "runs")
    one = in_process(undisturbed, "runs", "journey", "--out", str(tmp_path / "runs.csv"))
    table = pd.read_csv(tmp_path / "runs.csv")

    assert "journey" in every.stdout
    assert ["journey", "9", "9"] in [line.split() for line in every.stdout.splitlines()]
    assert dict(zip(table["run"], table["loss"], strict=True)) == losses(undisturbed)
    assert all(run in one.stdout for run in losses(undisturbed))


def no_server(*modules):
    raise AssertionError("there is nothing to train, so no worker is needed")


def test_the_same_command_again_trains_nothing_and_starts_no_server(undisturbed, monkeypatch):
    monkeypatch.setattr("scalelab.jobs.executors.local.fork_server", no_server)
    before = {p: p.stat().st_mtime_ns for p in undisturbed.runs.glob("journey/*/log.jsonl")}

    again = in_process(undisturbed, "sweep", "journey.yaml")

    assert again.returncode == 0, again.stderr
    assert "9 done already; 0 to train" in again.stdout
    assert before == {p: p.stat().st_mtime_ns for p in undisturbed.runs.glob("journey/*/log.jsonl")}


def test_a_second_sweep_trains_only_what_is_new(undisturbed, worlds):
    world = worlds("second", mlflow=False)
    shutil.copytree(undisturbed.runs, world.runs, dirs_exist_ok=True)
    shutil.copy(undisturbed.path / "journey.yaml", world.path)

    done = world("sweep", "journey.yaml", "--no-timing", *SECOND)
    table = in_process(world, "runs", "second")
    fit = in_process(world, "fit", "second", "--replicates", "50")

    assert done.returncode == 0, done.stderr
    assert "9 done already; 2 to train" in done.stdout
    assert len(losses(world, "second")) == 2
    assert table.stdout.count("trained by the sweep journey") == 9
    assert fit.returncode == 0, fit.stderr
    assert json.loads((world.path / "reports/second/fit.json").read_text())["n_runs"] == 11


def test_a_dry_run_shows_every_run_and_touches_nothing(worlds, monkeypatch):
    monkeypatch.setattr("scalelab.launch.sweep_timing.LIMIT_S", 300.0)  # a busy machine times nothing in 10 s
    world = worlds("dry", mlflow=False)
    done = in_process(world, "sweep", "journey.yaml", "--dry-run", "--json", "plan.json")
    plan = json.loads((world.path / "plan.json").read_text())

    assert done.returncode == 0, done.stderr
    assert "9 runs" in done.stdout
    assert "Time: about" in done.stdout
    assert len(plan["runs"]) == 9
    assert all(run["seconds_estimated"] > 0 for run in plan["runs"])
    assert not world.runs.exists()


def test_fit_answers_in_words_numbers_and_pictures(undisturbed):
    options = ("--replicates", "100", "--json", "out.json", "--target", "1e12")
    done = in_process(undisturbed, "fit", "journey", *options)
    report = undisturbed.path / "reports/journey"
    fit = json.loads((undisturbed.path / "out.json").read_text())

    assert done.returncode == 0, done.stderr
    assert "Forecast (extrapolated)" in done.stdout
    assert fit["schema"] == 1
    assert fit["n_runs"] == 9
    assert fit["param_count"] == "matmul"
    assert fit["forecast"]["flops"] == 1e12
    assert (report / "README.md").exists()
    assert (report / "runs.csv").exists()
    for figure in report.glob("*.png"):
        assert figure.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert mlflow_rows(undisturbed, "select count(*) from runs where name = 'fit'") != [(0,)]


def test_fit_takes_an_external_table(worlds):
    world = worlds("bare", mlflow=False)
    rows = ["N,D,L"]
    for n in (1e7, 3e7, 1e8, 3e8, 1e9):
        for d in (1e9, 4e9, 1.6e10, 6.4e10):
            rows.append(f"{n},{d},{1.8 + 480 / n**0.35 + 2100 / d**0.37}")
    (world.path / "table.csv").write_text("\n".join(rows))

    names = "n_params=N,n_tokens=D,loss=L"
    done = in_process(
        world, "fit", "table.csv", "--columns", names, "--replicates", "50", "--json", "fit.json"
    )
    found = json.loads((world.path / "fit.json").read_text())["laws"]["chinchilla"]["params"]

    assert done.returncode == 0, done.stderr
    assert abs(found["alpha"] - 0.35) < 1e-3
    assert abs(found["E"] - 1.8) < 1e-3


def test_one_run_can_be_repeated_from_its_spec(undisturbed, worlds):
    world = worlds("single", mlflow=False)
    (run, loss), *_ = losses(undisturbed).items()
    shutil.copy(undisturbed.runs / "journey" / run / "spec.yaml", world.path / "again.yaml")

    done = in_process(world, "run", "again.yaml")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["loss"] == loss
    assert losses(world, "single") == {run: loss}


def test_a_finished_run_leaves_the_house(undisturbed, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    run = next(iter(losses(undisturbed)))
    done = in_process(undisturbed, "export", f"runs/journey/{run}", str(tmp_path / "hf"))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    text = torch.tensor([list(b"the model reads a token then")])

    assert done.returncode == 0, done.stderr
    assert model(text, labels=text).loss.item() < 0.5 * math.log(257)


def test_a_sweep_whose_runs_all_diverge_ends_with_a_refusal(worlds):
    world = worlds("hot", mlflow=False)
    hot = ("--set", "recipe.optimizer.lr=1e4", "--set", "design.budgets=[4e9]")
    done = in_process(world, "sweep", "journey.yaml", *hot, "--no-timing", "--set", "launch.executor=inline")

    assert done.returncode == 2
    assert "3 of 3" not in done.stdout
    assert "diverged" in done.stdout
    assert "error: no run of journey finished, so there is nothing to fit" in done.stderr
    assert "next: scalelab fit" not in done.stdout
