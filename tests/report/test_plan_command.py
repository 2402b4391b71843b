"""What `scalelab plan` refuses, each message read; and what its parts say of known inputs."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from scalelab.cli.main import main
from scalelab.errors import PlanError
from scalelab.files import is_component
from scalelab.hardware.accelerators import accelerator
from scalelab.plan.cost.budget import Mfu
from scalelab.plan.cost.placement import place_run
from scalelab.plan.cost.plan_cost import TRIAL_SHARE, TRIALS, Resources, costs_of
from scalelab.plan.cost.rates import Rates
from scalelab.plan.plan import Plan, assumed_shape
from scalelab.plan.planner import _name
from scalelab.plan.source import MeasuredThroughput, from_table
from scalelab.report.document import Document
from scalelab.report.plan.costs import cost_blocks
from scalelab.report.plan.memory import memory_blocks
from scalelab.report.render.terminal import render_terminal
from scalelab.train.memory import SHARE_OF_DEVICE

H100 = ("--gpu", "h100", "--mfu", "0.4")


def text_of(blocks):
    """What the terminal shows of some blocks."""
    return render_terminal(Document("t", blocks), 100)


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
        ("", "no budget is given", "--budget 1e21"),
        ("--budget 1e20 --dollars 3", "in 2 ways: --budget and --dollars", "keep one"),
        ("--params 1e9 --tokens 1e10 --loss 2", "--loss and --params with --tokens", "keep one"),
        ("--budget 1e20 --params 1e9 --max-params 1e9", "each decide the model", "keep one"),
        ("--budget 1e20 --tokens 1e9 --unique-tokens 1e9", "each decide the model", "keep one"),
        ("--days 30 --gpu h100", "--days requires --gpus", "add --gpus"),
        ("--budget 1e20 --token-price 1", "--token-price requires --unique-tokens", "leave"),
        ("--budget 1e20 --mfu-inference 0.1", "--mfu-inference requires --demand", "leave"),
        ("--loss -2", "--loss is -2", "positive"),
        ("--budget 1e20 --gpu h1000", "unknown accelerator 'h1000'; did you mean h100?", "h100"),
        ("--budget 1e20 --gpu h100 --mfu 1.4", "an MFU of 1.4", "0.38 to 0.43"),
        ("--budget 1e20 --gpu h100 --mfu 0.4 --region atlantis", "'atlantis'", "france"),
        ("--budget 12parsecs", "cannot read '12parsecs'", "300 PF-days"),
        ("--budget 1e20 --gpus 8", "--gpus 8 requires --gpu", "--gpu h100"),
        ("--budget 1e20 --region us", "--region requires --gpu", "--gpu h100"),
        ("--dollars 1e6", "--dollars requires --gpu", "--gpu h100"),
        ("--gpus 8 --days 3 --gpu h100", "no MFU is known", "--mfu"),
        ("--dollars 1e6 --gpu h100", "no MFU is known", "0.38 to 0.43"),
        ("--budget 1e20 --gpu h100 --demand 1e12 --mfu-inference 0.1", "no MFU is known", "--mfu"),
        ("--budget 1e20 --gpu h100 --price cheap", "cannot read 'cheap' as a price", "--price 2-3.5"),
        ("--budget 1e20 --gpu h100 --price 3-2", "cannot read '3-2' as a price", "--price 2-3.5"),
        ("--budget 1e20 --gpu h100 --goodput 1.2", "--goodput is 1.2", "such as 0.9"),
        ("--budget 1e20 --gpu h100 --restart-reserve 5", "--restart-reserve is 5", "such as 0.05"),
        ("--budget 1e20 --goodput 0.9", "--goodput requires --gpu", "--gpu h100"),
        ("--budget 1e20 --price 2", "--price requires --gpu", "--gpu h100"),
        ("--budget 1e20 --staff 5", "--staff requires --salary", "add --salary"),
        ("--budget 1e20 --salary 5e5", "--salary requires --staff", "add --staff"),
        ("--budget 1e20 --staff 5 --salary 5e5", "the time of the staff is unknown", "--staff-months 12"),
        ("--dollars 1e6 --gpu tpu-v4 --mfu 0.4", "price of tpu-v4 is unknown", "rates file"),
    ],
)
def test_flags_that_say_too_much_or_too_little(refused, table, flags, problem, fix):
    said = refused(table(), *flags.split())

    assert problem in said
    assert fix in said.partition("fix:")[2]


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ("--demand 1e12", "--demand requires evidence"),
        ("--override why", "--override requires evidence"),
        ("--recipe x.yaml", "--recipe requires evidence"),
        ("--columns n_params=N", "--columns requires evidence"),
        ("--decimal comma", "--decimal requires evidence"),
        ("--units loss=bits", "--units requires evidence"),
        ("--tokens-available 3e11", "--tokens-available requires evidence"),
        ("--gpus 4", "--gpus 4 requires --gpu"),
        ("--gpus 1 --gpu h100 --mfu 0.4", "the run does not fit"),
        ("--gpus 4 --gpu rtx4090 --mfu 0.4", "does not fit 4 x 24 GB"),
        ("--gpus 4 --gpu h100 --mfu 0.4 --layout shard=8", "needs 8 devices, and there are 4"),
        ("--layout sideways=2", "cannot read 'sideways=2'"),
    ],
)
def test_params_and_tokens_alone(refused, flags, problem):
    assert problem in refused("--params", "70e9", "--tokens", "1e12", *flags.split())


def test_a_missing_source_is_asked_for(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    said = refused("--budget", "1e20")

    assert "no source is given, and there are 0 sweeps" in said
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


@pytest.fixture
def shown(capsys):
    """A function that plans, and gives what was printed and the plan."""

    def run(*argv):
        assert main(["plan", *argv, "--replicates", "0", "--json", "p.json"]) == 0
        text = " ".join(capsys.readouterr().out.split())
        return text, json.loads(Path("p.json").read_text())

    return run


def test_a_primary_law_whose_fit_is_broken_is_shown_and_not_frozen(shown, table, tmp_path, capsys):
    """Loss that does not depend on the tokens: the surface hangs at a bound."""
    text, plan = shown(
        table(lambda N, D: 1.8 + 480 / N**0.35 + 0 * D), "--budget", "1e20", "--law", "chinchilla"
    )

    assert "Do not rely on these numbers; the forecast is not frozen" in text
    assert "Optimum (extrapolated 3.33x, chinchilla law; do not rely)" in text
    assert plan["n_params"] > 0
    assert plan["forecast"] is None
    assert not list(tmp_path.rglob("forecast.json"))
    assert not (tmp_path / "runs").exists()
    assert main(["launch", "plans/t-1e20"]) == 2
    said = capsys.readouterr().err
    assert "its forecast was not frozen; the verdict on the forecast is: do not rely on it" in said
    assert "plan again: add to the evidence" in said.partition("fix:")[2]


def test_beyond_a_thousandfold_a_forecast_is_frozen_only_with_a_reason(shown, table, refused):
    argv = (table(), "--budget", "4e22")
    text, plan = shown(*argv)

    assert "1,333x beyond the largest compute" in text
    assert "; do not rely)" in text
    assert plan["forecast"] is None
    assert any("to freeze it, add to the evidence" in note for note in plan["notes"])
    text, plan = shown(*argv, "--override", "to see it")
    assert "overridden to see it" in text
    assert plan["forecast"]["file"] == "forecast.json"
    assert not any("to freeze it" in note for note in plan["notes"])
    text, plan = shown(*argv)  # the same forecast was frozen before
    assert plan["forecast"]["file"] == "forecast.json"
    assert "has a plan with another forecast, which is frozen" in refused(
        table(), "--budget", "5e22", "--replicates", "0", "--out", "plans/t-4e22"
    )


def test_a_reason_is_recorded_only_where_there_is_something_to_override(table, capsys):
    """The law of the table to its last digit, three times as far as it was seen."""
    argv = ["plan", table(), "--budget", "9e19", "--law", "chinchilla", "--replicates", "200"]
    assert main([*argv, "--override", "to be sure"]) == 0

    assert "overridden" not in capsys.readouterr().out
    assert json.loads(Path("plans/t-9e19/forecast.json").read_text())["override"] is None


@pytest.mark.parametrize(
    ("budget", "reason", "fix", "doubtful"),
    [
        ("3e19", "no more than the largest compute in evidence, 3e19", "scalelab fit t.csv", False),
        ("2e18", "there is nothing to extrapolate", "scalelab fit t.csv", False),
        ("1e15", "less than the smallest budget in evidence", "set --budget above 3e19", True),
    ],
)
def test_inside_the_evidence_the_answer_is_shown_and_not_frozen(shown, table, budget, reason, fix, doubtful):
    text, plan = shown(table(), "--budget", budget)

    assert reason in text
    assert any(fix in note for note in plan["notes"])
    assert ("Do not rely on these numbers" in text) is doubtful
    C = float(budget)
    N = (0.35 * 480 / 0.37 / 2100) ** (1 / 0.72) * (C / 6) ** (0.37 / 0.72)
    assert plan["n_params"] == pytest.approx(N, rel=0.5 if doubtful else 0.1)
    assert plan["status"]["loss"] == ("extrapolated" if doubtful else "fitted")
    assert plan["forecast"] is None


def test_a_loss_that_runs_of_the_evidence_reach_is_answered_with_the_floor(shown, table, refused):
    text, plan = shown(table(), "--loss", "2.9", "--law", "chinchilla")

    assert "its floor is 1.8" in text
    assert plan["loss"] == pytest.approx(2.9, abs=1e-6)
    assert plan["target"]["flops"] < 3e19
    near = shown(table(), "--loss", "1.801", "--law", "chinchilla")[1]
    assert near["target"]["flops"] > 1e30
    said = refused(table(), "--loss", "1.8", "--law", "chinchilla", "--replicates", "0")
    assert "floor of the chinchilla law, 1.8" in said
    assert "choose a loss above 1.8" in said


def test_a_variant_on_an_unreliable_surface_is_shown_with_its_doubt(shown, table):
    """Loss that does not depend on the tokens: no surface can be relied on, and all of them are refuted."""
    runs = table(lambda N, D: 1.8 + 480 / N**0.35 + 0 * D)

    text, plan = shown(runs, "--budget", "1e20", "--law", "chinchilla", "--tokens", "1e9")

    assert "do not rely chinchilla is unreliable:" in text
    assert plan["choices"]["tokens"]["doubt"]


@pytest.fixture
def before_the_seals(unsealed, tmp_path, monkeypatch):
    """A directory with the runs and the plan of the version before the seals."""
    shutil.copytree(unsealed / "sweeps", tmp_path / "runs")
    shutil.copytree(unsealed / "plans", tmp_path / "plans")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCALELAB_RUNS", raising=False)
    return tmp_path


def leaves(value, path=""):
    """(place, value) of everything in a JSON record that is no object and no list."""
    inner = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    )
    if inner is None:
        yield path, value
    else:
        for key, below in inner:
            yield from leaves(below, f"{path}.{key}")


def numbers_in(value):
    """Another CPU adds up in another order, so the old file has other last digits than are found here."""
    return {path: leaf for path, leaf in leaves(value) if isinstance(leaf, float)}


def words_in(value):
    return {path: leaf for path, leaf in leaves(value) if not isinstance(leaf, float)}


def test_an_old_plan_made_again_has_its_numbers_and_does_not_replace_it(before_the_seals, capsys):
    """The evidence is read through the old files: N*, D* and L* are those frozen. Intervals are drawn and
    graded in another way since, so it is another forecast, and the first one stays.
    """
    path = before_the_seals / "plans" / "smoke-4e11"
    frozen, run = (path / "forecast.json").read_bytes(), Plan.load(path).spec.id
    argv = ("smoke", "--budget", "4e11", "--law", "kaplan", "--replicates", "200")

    assert main(["plan", *argv]) == 2
    assert "the directory has a plan with another forecast, which is frozen" in capsys.readouterr().err
    argv += ("--override", "to compare it with the old one")
    assert main(["plan", *argv]) == 2
    assert "a forecast is never replaced" in capsys.readouterr().err
    assert main(["plan", *argv, "--out", "plans/again"]) == 0

    assert (path / "forecast.json").read_bytes() == frozen
    old, new = (json.loads((p / "forecast.json").read_text()) for p in (path, path.with_name("again")))
    for field in ("loss", "planned", "actual", "laws", "evidence", "reach"):
        assert numbers_in(new[field]) == pytest.approx(numbers_in(old[field]), rel=1e-6), field
        assert words_in(new[field]) == words_in(old[field]), field
    assert Plan.load(path).spec.id == run
    assert main(["launch", str(path), "--dry-run"]) == 0


def test_a_damaged_entry_of_the_ledger_does_not_hide_the_others(before_the_seals, capsys):
    ledger = before_the_seals / "runs" / "forecasts"
    assert main(["runs", "--forecasts"]) == 0
    row = capsys.readouterr().out.splitlines()[1]
    (ledger / "0123456789ab.json").write_text("{}")

    assert main(["runs", "--forecasts"]) == 2

    said = capsys.readouterr()
    assert row.split()[:4] in [line.split()[:4] for line in said.out.splitlines()]
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
    [
        ("fam", "fam-4e11"),
        ("a b", "a-b-4e11"),
        ("../..x", "x-4e11"),
        ("é", "4e11"),
        ("x" * 200, "x" * 100 + "-4e11"),
    ],
)
def test_a_source_of_any_name_leads_to_a_plain_one(source, name):
    found = _name(SimpleNamespace(name=None), SimpleNamespace(name=source), 4e11)

    assert found == name
    assert is_component(found)


@pytest.fixture
def resources():
    """Eight H100s at a stated MFU, in France."""
    rates = Rates.load()
    return Resources(rates, accelerator("h100"), 8, Mfu(0.4), rates.region("france"))


def test_dollars_and_carbon_follow_from_the_dated_rates(resources):
    found = costs_of(None, resources, None, 1e22, 8)

    hours = 1e22 / (9.89e14 * 0.4) / 3600
    kwh = hours * 0.7 * resources.rates.pue.value
    price = resources.rates.price("h100")
    assert found.final.device_hours == pytest.approx(hours)
    assert found.days == pytest.approx(hours / 8 / 24)
    assert found.final.dollars == pytest.approx(hours * price.dollars_per_device_hour)
    assert found.final.co2_kg == pytest.approx(kwh * resources.carbon.kg_per_kwh)
    said = text_of(cost_blocks(found))
    assert f"{price.as_of}" in said
    assert "literature" in said
    assert found.to_json()["price_as_of"] == price.as_of.isoformat()


def test_throughput_measured_on_an_unknown_device_gives_hours_and_nothing_else():
    pace = MeasuredThroughput(2e10, 5, "cpu", "fp32", 1, None)

    found = costs_of(None, Resources(Rates.load(), throughput=pace), None, 7.2e13, 1)

    assert found.final.device_hours == pytest.approx(1.0)
    assert found.status == "measured"
    assert (found.final.dollars, found.final.kwh, found.final.co2_kg) == (None, None, None)
    assert "unknown" in text_of(cost_blocks(found))


def test_without_a_device_time_is_unknown():
    found = costs_of(None, Resources(Rates.load()), None, 1e22, 1)

    assert (found.days, found.final.device_hours, found.status) == (None, None, "unknown")
    assert found.final.pf_days == pytest.approx(1e22 / 8.64e19)


def test_more_trials_leave_the_old_pipeline_less(table):
    source = from_table(Path(table()), "")
    resources = Resources(Rates.load())

    few, many = (costs_of(n, resources, source, 1e20, 1).compared for n in (None, 40))

    total = few.total_flops
    assert total == pytest.approx(1e20 + source.observations.C.sum())
    assert few.old_final_flops == pytest.approx(total / (1 + TRIALS * TRIAL_SHARE))
    assert many.old_final_flops == pytest.approx(total / 5)


def test_without_a_number_of_devices_the_fewest_that_fit_are_used(resources):
    shape = assumed_shape(70e9, "total")

    found = place_run("", replace(resources, devices=None), shape, None)

    assert found.layout.devices == 32  # 1.1 TB of state over 80 GB devices, of which 80% is filled
    assert found.is_least
    assert "32, the smallest power of two that fits" in text_of(memory_blocks(found))
    assert place_run("", replace(resources, devices=16), shape, None).layout.offload
    with pytest.raises(PlanError, match="does not fit"):
        place_run("", replace(resources, devices=1), shape, None)


def test_memory_of_an_unknown_device_judges_nothing():
    found = place_run("", Resources(Rates.load()), assumed_shape(70e9, "total"), None)

    assert found.memory.total_bytes > 1e12
    assert found.room_bytes is None
    assert "whether the run fits is unknown" in text_of(memory_blocks(found))


def test_a_layout_taken_fills_no_more_than_its_share(resources):
    found = place_run("", resources, assumed_shape(8e9, "total"), None)

    assert found.layout.devices == 8
    assert found.memory.total_bytes <= SHARE_OF_DEVICE * 80e9
    assert found.considered[0].layout == found.layout
