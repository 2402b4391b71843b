"""A forecasting method of another package, on the board beside ours."""

import json

import pytest

from scalelab.backtest import METHODS
from scalelab.backtest.runner import _versions
from scalelab.cli.main import main
from scalelab.testing.methods import check_method

pytestmark = pytest.mark.usefixtures("examples")


def test_it_keeps_the_contract():
    answer = check_method("local_slope")

    assert answer.low is not None


def test_its_answers_are_kept_by_its_own_code():
    _versions.cache_clear()

    ours, *theirs = _versions("local_slope")

    assert METHODS.targets["local_slope"].package == "scalelab-examples"
    assert _versions("chinchilla") == (ours,)
    assert theirs[-1] == "0.1.0"


def test_it_stands_on_the_board(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tables = tmp_path / "tables"
    tables.mkdir()
    assert main(["simulate", str(tables / "sim.csv"), "--noise", "gaussian:0.002"]) == 0

    code = main(["backtest", "--method", "local_slope", "--method", "persistence", "--json", "board.json"])

    assert code == 0, capsys.readouterr().err
    board = json.loads((tmp_path / "board.json").read_text())
    scores = {score["name"]: score for score in board["methods"]}
    assert scores["local_slope"]["loss"][0]["error"] < scores["persistence"]["loss"][0]["error"]
    assert scores["local_slope"]["loss"][0]["coverage"]
