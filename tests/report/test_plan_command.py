"""What `scalelab plan` refuses, each message read; and what its parts say of known inputs."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from scalelab.accelerators import accelerator
from scalelab.cli import main
from scalelab.errors import PlanError
from scalelab.files import is_component
from scalelab.plan.budget import Mfu
from scalelab.plan.final import Plan, assumed_shape
from scalelab.plan.rates import Rates
from scalelab.report.plan_costs import TRIAL_SHARE, TRIALS, Means, costs_of
from scalelab.report.plan_fits import fits
from scalelab.report.plan_source import Pace, from_table
from scalelab.report.planned import _name
from scalelab.train.memory import SHARE_OF_DEVICE

H100 = ("--gpu", "h100", "--mfu", "0.4")


@pytest.fixture
def table(tmp_path, monkeypatch):
    """A function that writes runs of C = 6 N D in three budgets, with a loss of one's own."""
    monkeypatch.chdir(tmp_path)

    def write(loss=lambda N, D: 1.8 + 480 / N**0.35 + 2100 / D**0.37):
        lines = ["n_params,n_tokens,loss,flops,flops_planned"]
        for C in (1e18, 3e18, 1e19, 3e19):
            for N in 0.09 * C**0.5 * np.geomspace(0.3, 3, 7):
                D = C / 6 / N
                lines.append(",".join(f"{v:.10g}" for v in (N, D, loss(N, D), C, C)))
        (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
        return "t.csv"

    return write


@pytest.fixture
def refused(capsys):
    """A function that runs the command, which must refuse in three lines, and gives them."""

    def run(*argv):
        assert main(["plan", *argv]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        assert said.count("\n  where: ") == said.count("\n  fix:   ") == 1
        return said

    return run


@pytest.mark.parametrize(
    ("flags", "problem", "fix"),
    [
        ("", "no budget is said", "--budget 1e21"),
        ("--budget 1e20 --dollars 3", "in 2 ways: --budget and --dollars", "keep one"),
        ("--params 1e9 --tokens 1e10 --loss 2", "--loss and --params with --tokens", "keep one"),
        ("--budget 1e20 --params 1e9 --max-params 1e9", "each decide the model", "keep one"),
        ("--budget 1e20 --tokens 1e9 --unique-tokens 1e9", "each decide the model", "keep one"),
        ("--days 30 --gpu h100", "--days says nothing without --gpus", "add --gpus"),
        ("--budget 1e20 --token-price 1", "nothing without --unique-tokens", "leave"),
        ("--budget 1e20 --mfu-inference 0.1", "nothing without --demand", "leave"),
        ("--loss -2", "--loss is -2", "positive"),
        ("--budget 1e20 --gpu h1000", "unknown accelerator 'h1000'; did you mean h100?", "h100"),
        ("--budget 1e20 --gpu h100 --mfu 1.4", "an MFU of 1.4", "0.38 to 0.43"),
        ("--budget 1e20 --gpu h100 --mfu 0.4 --region atlantis", "'atlantis'", "france"),
        ("--budget 12parsecs", "cannot read '12parsecs'", "300 PF-days"),
        ("--budget 1e20 --gpus 8", "8 devices of which kind?", "--gpu h100"),
        ("--budget 1e20 --region us", "--region of which device?", "--gpu h100"),
        ("--dollars 1e6", "--dollars of which device?", "--gpu h100"),
        ("--gpus 8 --days 3 --gpu h100", "no MFU is known", "--mfu"),
        ("--budget 1e20 --gpu h100", "no MFU is known", "0.38 to 0.43"),
        ("--dollars 1e6 --gpu tpu-v4 --mfu 0.4", "price of tpu-v4 is unknown", "rates file"),
        ("--budget 3e19", "no more than the largest in evidence, 3e19", "--budget"),
        ("--budget 1e15", "nothing to extrapolate", "scalelab fit t"),
    ],
)
def test_flags_that_say_too_much_or_too_little(refused, table, flags, problem, fix):
    said = refused(table(), *flags.split())

    assert problem in said
    assert fix in said.partition("fix:")[2]


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ("--demand 1e12", "--demand needs evidence"),
        ("--override why", "--override needs evidence"),
        ("--recipe x.yaml", "--recipe needs evidence"),
        ("--gpus 4", "4 devices of which kind?"),
        ("--gpus 1 --gpu h100 --mfu 0.4", "the run does not fit"),
        ("--gpus 4 --gpu rtx4090 --mfu 0.4", "does not fit 4 x 24 GB"),
        ("--gpus 4 --gpu h100 --mfu 0.4 --layout shard=8", "takes 8 devices, and there are 4"),
        ("--layout sideways=2", "cannot read 'sideways=2'"),
    ],
)
def test_params_and_tokens_alone(refused, flags, problem):
    assert problem in refused("--params", "70e9", "--tokens", "1e12", *flags.split())


def test_a_missing_source_is_asked_for(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    said = refused("--budget", "1e20")

    assert "which runs should the plan rest on?" in said
    assert "scalelab plan NAME" in said


def test_a_recipe_that_nobody_prepared_is_no_run(refused, table, tmp_path, monkeypatch):
    monkeypatch.setenv("SCALELAB_CACHE", str(tmp_path / "empty"))
    (tmp_path / "a.txt").write_text("some text")
    (tmp_path / "s.yaml").write_text(
        "name: s\nquestion: q\nprediction: p\nrecipe:\n"
        f"  data: {{source: {{kind: text, paths: ['{tmp_path}/a.txt']}}}}\n"
        "  seq_len: 32\n  model: {kind: transformer, n_layers: 1, head_size: 8}\n"
        "  optimizer: {lr: 1e-3}\n"
        "design: {kind: isoflop, budgets: [1e9, 1e10], tokens_per_param: 20}\n"
    )

    said = refused(table(), "--budget", "1e20", "--recipe", "s.yaml")

    assert "the corpus of the recipe is not prepared" in said
    assert "scalelab data s.yaml" in said


def test_a_speaker_whose_fit_is_broken_makes_no_plan(refused, table):
    """Loss that does not depend on the tokens: the surface hangs at a bound."""
    runs = table(lambda N, D: 1.8 + 480 / N**0.35 + 0 * D)

    said = refused(runs, "--budget", "1e20", "--law", "chinchilla", "--replicates", "0")

    assert "chinchilla, which would speak for the plan, is not a fit to rely on" in said
    assert "--law NAME" in said


def test_beyond_a_thousandfold_only_with_a_reason(refused, table):
    argv = (table(), "--budget", "4e22", "--replicates", "0")

    assert "1,333x beyond the largest compute" in refused(*argv)
    assert main(["plan", *argv, "--override", "to see it"]) == 0


@pytest.fixture
def before_the_seals(unsealed, tmp_path, monkeypatch):
    """A directory with the runs and the plan of the version before the seals."""
    shutil.copytree(unsealed / "sweeps", tmp_path / "runs")
    shutil.copytree(unsealed / "plans", tmp_path / "plans")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCALELAB_RUNS", raising=False)
    return tmp_path


def test_an_old_plan_made_again_keeps_its_forecast_and_every_number_of_it(before_the_seals):
    """The evidence is read through the old files; one digit off would be another forecast."""
    path = before_the_seals / "plans" / "smoke-4e11"
    frozen, run = (path / "forecast.json").read_bytes(), Plan.load(path).spec.id

    argv = ("smoke", "--budget", "4e11", "--law", "kaplan", "--replicates", "200")
    assert main(["plan", *argv]) == 0

    assert (path / "forecast.json").read_bytes() == frozen
    assert json.loads((path / "plan.json").read_text())["schema"] == 2
    assert Plan.load(path).spec.id == run
    assert main(["launch", str(path), "--dry-run"]) == 0


def test_a_damaged_entry_of_the_ledger_does_not_hide_the_others(before_the_seals, capsys):
    ledger = before_the_seals / "runs" / "forecasts"
    assert main(["runs", "--forecasts"]) == 0
    row = capsys.readouterr().out.splitlines()[1]
    (ledger / "0123456789ab.json").write_text("{}")

    assert main(["runs", "--forecasts"]) == 2

    said = capsys.readouterr()
    assert row in said.out.splitlines()
    assert str(Path("runs/forecasts/0123456789ab.json")) in said.out
    assert len(said.err.splitlines()) == 3
    assert said.err.startswith("error: 0123456789ab.json is not a frozen forecast")


def test_a_sweep_that_cannot_be_read_is_named_beside_the_ledger(before_the_seals, capsys):
    """Whether one of its runs has begun is then not known."""
    (before_the_seals / "runs" / "smoke" / "sweep.json").write_text("{")

    assert main(["runs", "--forecasts"]) == 2

    said = capsys.readouterr()
    assert " held " in said.out
    assert len(said.err.splitlines()) == 3
    assert "sweep.json cannot be read as a sweep manifest" in said.err


@pytest.mark.parametrize("out", ["plans/a b", "plans/.x", "plans/forecasts", "plans/é"])
def test_a_plan_has_a_name_that_its_run_can_have(refused, table, out, tmp_path):
    said = refused(table(), "--budget", "1e20", "--replicates", "0", "--out", out)

    assert "cannot be the name of a plan, which is launched as runs/NAME" in said
    assert not (tmp_path / "plans").exists()


@pytest.mark.parametrize(
    ("source", "name"),
    [("fam", "fam-4e11"), ("a b", "a-b-4e11"), ("../..x", "x-4e11"), ("é", "4e11"),
     ("x" * 200, "x" * 100 + "-4e11")],
)  # fmt: skip
def test_a_source_of_any_name_leads_to_a_plain_one(source, name):
    found = _name(SimpleNamespace(out=None), SimpleNamespace(name=source), 4e11)

    assert found == name
    assert is_component(found)


@pytest.fixture
def means():
    """Eight H100s at a stated MFU, in France."""
    rates = Rates.load()
    return Means(rates, accelerator("h100"), 8, Mfu(0.4), rates.region("france"))


def test_dollars_and_carbon_follow_from_the_dated_rates(means):
    found = costs_of(None, means, None, 1e22, 8)

    hours = 1e22 / (9.89e14 * 0.4) / 3600
    kwh = hours * 0.7 * means.rates.pue.value
    price = means.rates.price("h100")
    assert found.final.device_hours == pytest.approx(hours)
    assert found.days == pytest.approx(hours / 8 / 24)
    assert found.final.dollars == pytest.approx(hours * price.dollars_per_device_hour)
    assert found.final.co2_kg == pytest.approx(kwh * means.carbon.kg_per_kwh)
    said = found.blocks()[0]
    assert f"{price.as_of}" in said
    assert "[literature" in said
    assert found.to_json()["price_as_of"] == price.as_of.isoformat()


def test_a_pace_measured_on_an_unknown_device_tells_hours_and_nothing_else():
    pace = Pace(2e10, 5, "cpu", "fp32", 1, None)

    found = costs_of(None, Means(Rates.load(), pace=pace), None, 7.2e13, 1)

    assert found.final.device_hours == pytest.approx(1.0)
    assert found.status == "measured"
    assert (found.final.dollars, found.final.kwh, found.final.co2_kg) == (None, None, None)
    assert "unknown" in found.blocks()[0]


def test_without_a_device_time_is_unknown():
    found = costs_of(None, Means(Rates.load()), None, 1e22, 1)

    assert (found.days, found.final.device_hours, found.status) == (None, None, "unknown")
    assert found.final.pf_days == pytest.approx(1e22 / 8.64e19)


def test_more_trials_leave_the_old_pipeline_less(table):
    source = from_table(Path(table()), "")
    means = Means(Rates.load())

    few, many = (costs_of(n, means, source, 1e20, 1).compared for n in (None, 40))

    total = few.total_flops
    assert total == pytest.approx(1e20 + source.observations.C.sum())
    assert few.old_final_flops == pytest.approx(total / (1 + TRIALS * TRIAL_SHARE))
    assert many.old_final_flops == pytest.approx(total / 5)


def test_where_nobody_counts_devices_the_fewest_that_hold_it_are_told(means):
    shape = assumed_shape(70e9, "total")

    found = fits("", replace(means, devices=None), shape, None)

    assert found.layout.devices == 32  # 1.1 TB of state over 80 GB devices, of which 80% is filled
    assert found.is_least
    assert "32 devices are the fewest" in found.block()
    assert fits("", replace(means, devices=16), shape, None).layout.offload
    with pytest.raises(PlanError, match="does not fit"):
        fits("", replace(means, devices=1), shape, None)


def test_memory_of_an_unknown_device_judges_nothing():
    found = fits("", Means(Rates.load()), assumed_shape(70e9, "total"), None)

    assert found.memory.total_bytes > 1e12
    assert found.room_bytes is None
    assert "whether it fits is too" in found.block()


def test_a_layout_taken_fills_no_more_than_its_share(means):
    found = fits("", means, assumed_shape(8e9, "total"), None)

    assert found.layout.devices == 8
    assert found.memory.total_bytes <= SHARE_OF_DEVICE * 80e9
    assert found.considered[0].layout == found.layout
