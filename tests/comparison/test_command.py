"""`scalelab compare` on tables and sweeps: exit statuses, what is printed and written, refusals."""

import json

import pandas as pd
import pytest
from compare import DESIGNS

import scalelab
from scalelab.cli.main import main
from scalelab.comparison.arms import arm_of
from scalelab.errors import DataError
from scalelab.records.evaluation_text import EvaluationText
from scalelab.records.runs import read_external
from scalelab.report.comparison.plot_data import multiplier_curve, recipe_frontiers
from scalelab.testing.figures import check_figure


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty directory to stand in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCALELAB_RUNS", raising=False)
    return tmp_path


@pytest.fixture
def tables(here, simulated, table_of):
    """A baseline and three variants."""
    base, better = simulated(m=1.3, seed=1)
    table_of(base, here / "base.csv", tokenizer="bpe", data_digest="d1")
    table_of(better, here / "better.csv", tokenizer="bpe", data_digest="d1")
    for name, m in (("same", 1.0), ("worse", 0.75)):
        table_of(simulated(m=m, seed=1)[1], here / f"{name}.csv", tokenizer="bpe", data_digest="d1")
    return here


@pytest.mark.parametrize(
    ("name", "status", "word"), [("better", 0, "Promote."), ("same", 3, "Tie."), ("worse", 4, "Reject.")]
)
def test_the_exit_status_is_the_verdict(tables, capsys, name, status, word):
    argv = [
        "compare",
        "base.csv",
        f"{name}.csv",
        "--tuning",
        "per-arm",
        "--replicates",
        "200",
        "--json",
        "c.json",
    ]

    assert main(argv) == status

    out = capsys.readouterr().out
    assert word in out
    assert "report: reports/compare-base-" in out
    assert ("would decide" in out) == (status == 3)
    assert "warning" not in out
    page = (tables / "reports" / f"compare-base-{name}" / "README.md").read_text()
    assert "multiplier.1.png" in page
    assert "(simulated)" in page
    found = json.loads((tables / "c.json").read_text())
    assert (found["schema"], found["exit_status"]) == (1, status)
    judged = found["challengers"][0]
    assert judged["interval"][0] < judged["multiplier"] < judged["interval"][1]
    assert len(judged["rungs"]) == 4
    assert judged["frontiers"]["baseline"]["slope_interval"] is not None
    assert 0 <= judged["crossing"]["probability_of_none"] <= 1


def test_a_single_rung_against_a_baseline_ladder(here, simulated, table_of, capsys):
    ladder, _ = simulated(design=DESIGNS[3])
    _, rung = simulated(m=1.4, design=DESIGNS[3], budgets=(1e18,))
    table_of(ladder, here / "ladder.csv")
    table_of(rung, here / "rung.csv")

    assert main(["compare", "rung.csv", "--baseline", "ladder.csv", "--replicates", "0"]) == 0

    out = " ".join(capsys.readouterr().out.split())
    assert "rung reaches the loss of ladder" in out
    assert "none can be seen without a trend" in out


def test_sweeps_are_compared_by_name_and_their_tokens_by_their_file(here, simulated, sweep_of, capsys):
    base, better = simulated(m=1.4, seed=1, design=DESIGNS[2])
    sweep_of(base, "base")
    sweep_of(better, "better")
    sweep_of(better, "longer", tokens=8192)

    assert main(["compare", "base", "better", "--tuning", "small-rate"]) == 0
    out = capsys.readouterr().out
    assert "(measured)" in out
    assert "warning" not in out
    assert main(["compare", "base", "longer"]) == 2
    assert "numbers of validation tokens differ" in capsys.readouterr().err
    assert main(["compare", "base", "longer", "--metric", "bpb"]) == 0
    assert "bits per byte" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["base.csv"], "two different recipes"),
        (["base.csv", "base.csv"], "60 runs stand in both base 1 and base 2"),
        (["base.csv", "better.csv", "--replicates", "50"], "replicates = 50"),
        (["base.csv", "base.csv", "--look", "2"], "--look 2"),
        (["base.csv", "better.csv", "--look", "3/2"], "look 3 of 2"),
        (["base.csv", "better.csv", "--alpha", "2"], "alpha = 2.0"),
        (["base.csv", "better.csv", "--metric", "bpb"], "no bits per byte"),
        (["base.csv", "nowhere.csv"], "nowhere.csv"),
        (["base.csv", "nowhere"], "nowhere"),
    ],
)
def test_a_refusal_has_three_lines_and_leaves_nothing(tables, capsys, argv, problem):
    before = {*tables.rglob("*")}

    assert main(["compare", *argv]) == 2

    said = capsys.readouterr()
    assert said.out == ""
    assert problem in said.err
    assert "where:" in said.err
    assert "fix:" in said.err
    assert {*tables.rglob("*")} == before


def test_other_tokens_are_refused_through_tables(tables, simulated, table_of, capsys):
    table_of(simulated(seed=1)[1], tables / "other.csv", tokenizer="bytes", data_digest="d1")

    assert main(["compare", "base.csv", "other.csv"]) == 2
    assert "their tokenizers differ" in capsys.readouterr().err


def test_the_api_gives_what_the_command_shows(tables):
    found = scalelab.compare("base.csv", "better.csv", "worse.csv", replicates=200, names=("A", "B", "C"))

    assert found.verdict == "promote"
    frame = found.to_frame()
    assert len(frame) == 8
    assert set(frame["verdict"]) == {"promote", "reject"}
    assert "B against A" in str(found)
    for judged in found.comparison.pairs[:1]:
        check_figure("compare_multiplier", multiplier_curve(found.comparison, judged))
        check_figure("compare_frontiers", recipe_frontiers(found.comparison, judged))


def _arm(table, metric="loss"):
    return arm_of(read_external(table, {}, ("bpb",), None), EvaluationText(), metric)


def test_trunks_of_a_table_are_units_and_unrecorded_seeds_are_blank(tables):
    table = pd.read_csv("base.csv")
    trunks = [f"t{k % 2}" for k in range(len(table))]

    assert _arm(table.assign(trunk=trunks)).runs.group.tolist() == trunks
    own = _arm(table.assign(trunk=trunks, group=["g", "", *[None] * (len(table) - 2)])).runs.group
    assert own.tolist() == ["g", *trunks[1:]]
    assert set(_arm(table.drop(columns="seed")).runs.seed) == {""}
    assert _arm(table.assign(seed=[None, *table["seed"][1:]])).runs.seed.tolist()[:2] == ["", "0"]


def test_text_in_bits_per_byte_is_refused(tables):
    with pytest.raises(DataError, match="bpb must be a positive number in every row; 60 are not"):
        _arm(pd.read_csv("base.csv").assign(bpb="abc"), "bpb")


def test_a_second_report_leaves_no_figure_of_the_first(tables):
    found = scalelab.compare("base.csv", "better.csv", "worse.csv", replicates=0)
    found.write_report("out")
    scalelab.compare("base.csv", "better.csv", replicates=0).write_report("out")

    assert sorted(path.name for path in (tables / "out").glob("*.png")) == [
        "frontiers.1.png",
        "multiplier.1.png",
    ]


def test_branches_and_separate_runs_in_one_recipe_are_refused(tables, capsys):
    head, *lines = (tables / "better.csv").read_text().splitlines()
    mixed = [f"{head},trunk", *(f"{line},{'t1' if i % 2 else ''}" for i, line in enumerate(lines))]
    (tables / "mixed.csv").write_text("\n".join(mixed) + "\n")

    assert main(["compare", "base.csv", "mixed.csv"]) == 2
    assert "branches of trunks, the others were trained separately" in capsys.readouterr().err
