"""`scalelab backtest`: the board on the terminal, as JSON, and as a page."""

import contextlib
import io
import json
import os

import pytest

from scalelab.cli.main import main

METHODS = ["--method", "persistence", "--method", "log_linear"]


def call(*arguments):
    """Exit status, stdout and stderr of a command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["backtest", *arguments])
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A directory with tables/, in which the command runs."""
    place = tmp_path_factory.mktemp("backtest")
    before = os.getcwd()
    os.chdir(place)
    yield place
    os.chdir(before)


@pytest.fixture(scope="module")
def first(world, table_of, write_table):
    """The command on a simulated table, and one that is too thin."""
    write_table(table_of(), world / "tables", more="status=simulated")
    write_table(table_of(seed=9, budgets=(1e18, 1e20)), world / "tables", more="status=simulated")
    return call(*METHODS, "--json", "board.json")


def test_the_board_of_an_unknown_table(world, first):
    code, out, err = first

    assert code == 0, err
    assert "Tables (simulated)" in out
    assert "no case: table9: 10 runs" in " ".join(out.split())
    assert "report: reports/backtest/README.md" in out
    board = json.loads((world / "board.json").read_text())
    assert (board["schema"], board["cases"], board["targets"]) == (1, 4, 20)
    assert [score["name"] for score in board["methods"]] == ["persistence", "log_linear", "chinchilla"]
    near = {score["name"]: score["loss"][0] for score in board["methods"]}
    assert near["chinchilla"]["error"] < near["log_linear"]["error"] < near["persistence"]["error"]
    assert near["persistence"]["coverage"] == []
    assert [cover["level"] for cover in near["chinchilla"]["coverage"]] == [0.5, 0.6, 0.7, 0.8, 0.9]
    versus = {score["name"]: score["versus"] for score in board["methods"]}
    assert versus["chinchilla"]["near"]["ratio"] == 1
    assert versus["persistence"]["near"]["ratio"] > 1


def test_the_page_has_its_figures_and_the_second_call_makes_nothing(world, first):
    code, out, err = call(*METHODS)

    report = world / "reports" / "backtest"
    page = (report / "README.md").read_text()
    assert (code, out, err) == (0, first[1], "")
    assert "forecasts" in first[2]
    for figure in ("backtest_error", "backtest_coverage"):
        assert f"{figure}.png" in page
        assert (report / f"{figure}.png").stat().st_size > 5000
        assert (report / f"{figure}.svg").read_text().startswith("<?xml")
    assert "CPU time (measured)" in page
    assert json.loads((report / "backtest.json").read_text())["targets"] == 20


@pytest.mark.parametrize(
    ("arguments", "problem", "fix"),
    [
        (["--method", "chinchila"], "did you mean 'chinchilla'", "persistence"),
        (["--level", "80"], "level 80.0 is not between 0 and 1", "give a share between 0 and 1, such as 0.8"),
        (["--jobs", "0"], "0 processes", "use 1 or more"),
        (["--method", "kaplan", "--method", "kaplan"], "kaplan", "name each method once"),
        (["--tables", "nowhere"], "no directory of tables", "fetch tables"),
    ],
)
def test_a_request_that_cannot_be_is_refused(world, first, arguments, problem, fix):
    code, _, err = call(*arguments, "--out", "other")

    assert code == 2
    assert problem in err
    assert fix in err.partition("fix:")[2]
    assert not (world / "other").exists()


def test_tables_that_are_all_too_thin_are_named(world, table_of, write_table):
    write_table(table_of(budgets=(1e18, 1e20)), world / "thin")

    code, _, err = call("--tables", "thin", "--out", "other")

    assert code == 2
    assert "10 runs of 10 sizes" in err


@pytest.mark.parametrize(
    ("budgets", "sizes", "count"),
    [((1e19,), 7, "7 runs of 7 sizes"), ((1e19, 3e19), 6, "12 runs of 12 sizes")],
)
def test_a_table_within_a_factor_of_eight_of_its_largest_run_is_thin(
    world, table_of, write_table, budgets, sizes, count
):
    place = f"narrow{len(budgets)}"
    write_table(table_of(budgets=budgets, sizes=sizes), world / place)

    code, out, err = call("--tables", place, "--out", "other")

    assert (code, out) == (2, "")
    assert count in err
    assert not (world / "other").exists()
