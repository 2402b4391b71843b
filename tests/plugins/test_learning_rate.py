"""A law of another package, with a column and a kind of fit of its own, by the command line."""

import json

import numpy as np
import pytest

from scalelab.cli.main import main
from scalelab.errors import ConfigError
from scalelab.laws import LAWS
from scalelab.testing.laws import LawCase, check_law

RATES = np.geomspace(1e-4, 0.08, 9)
TRUTH = {
    **{"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37},
    **{"kappa": 0.012, "c": 1.79, "p": 0.713, "q": 0.307},
}
STEP_LAW = (1e9, 1e11, 1.632e-3)
"""N, D and the learning rate of Li et al. 2025."""


def loss(t, N, D, lr):
    """The formula, written again."""
    best = t["c"] * N ** -t["p"] * D ** t["q"]
    tuned = t["E"] + t["A"] / N ** t["alpha"] + t["B"] / D ** t["beta"]
    return tuned * np.exp(t["kappa"] * (np.log(lr) - np.log(best)) ** 2)


def case():
    return LawCase.of("learning_rate", TRUTH, columns={"learning_rate": RATES}, loss=loss)


@pytest.fixture
def table(examples, tmp_path, monkeypatch):
    """A function that writes the runs of the truth as a table, and gives its name."""
    monkeypatch.chdir(tmp_path)

    def write(name="runs.csv", noise=0.002, **columns):
        runs = case().runs(noise=noise)
        every = {"n_params": runs.N, "n_tokens": runs.D, "loss": runs.L, **columns}
        rows = "\n".join(",".join(map(repr, map(float, row))) for row in np.array([*every.values()]).T)
        (tmp_path / name).write_text(",".join(every) + "\n" + rows + "\n")
        return name

    return write


def rates():
    return {"learning_rate": case().inputs["lr"]}


def test_it_keeps_the_contract(examples):
    check_law(case())


def test_its_valleys_are_found_in_closed_form(examples):
    fit = case().fit()

    for name in ("kappa", "c", "p", "q"):
        assert fit.params[name] == pytest.approx(TRUTH[name], rel=1e-9)


def test_its_published_rule_is_that_of_step_law(examples):
    from scalelab_examples.learning_rate import best_rate

    N, D, lr = STEP_LAW
    assert best_rate(LAWS["learning_rate"].published, N, D) == pytest.approx(lr, rel=5e-3)


def test_tuned_runs_are_wanted_where_a_best_rate_lies_at_an_edge(examples):
    runs = case().runs()
    low = runs.columns["learning_rate"] < 2e-3
    fit = LAWS["learning_rate"]().fit(runs.take(low | (runs.N > 1e8)))

    assert fit.valleys.lost > 0
    assert any("have no valley" in w for w in fit.warnings)
    assert fit.params["p"] == pytest.approx(TRUTH["p"], rel=1e-6)


def test_it_is_fitted_reported_and_drawn(table, tmp_path, capsys):
    command = ["fit", table(**rates()), "--law", "learning_rate", "--law", "chinchilla"]
    assert main([*command, "--replicates", "300", "--json", "fit.json", "--out", "report"]) == 0

    found = json.loads((tmp_path / "fit.json").read_text())
    law = found["laws"]["learning_rate"]
    for name in TRUTH:
        low, high = law["intervals"][name]
        assert low < high
        assert law["params"][name] == pytest.approx(TRUTH[name], rel=0.15)
    assert found["forecast"]["law"] == "learning_rate"
    assert "learning_rate" in found["holdout"]["mean_abs_rel_error"]
    assert found["holdout"]["mean_abs_rel_error"]["learning_rate"] < 0.01
    assert found["seed_noise"] is None  # another rate is no other seed
    told = capsys.readouterr().out
    assert "learning_rate (fitted): L = (E + A / N^alpha" in told
    assert "twice or half of it" in told
    drawn = {path.name for path in (tmp_path / "report").glob("*.png")}
    assert {"learning_rate.rate_valley.png", "allocation.png", "residuals.png"} <= drawn
    assert "What a learning rate beside the best one costs" in (tmp_path / "report" / "README.md").read_text()


def test_a_figure_of_a_law_that_is_not_fitted_any_more_goes(table, tmp_path):
    command = ["fit", table(**rates()), "--replicates", "0", "--out", "report"]
    assert main([*command, "--law", "learning_rate"]) == 0
    assert (tmp_path / "report" / "learning_rate.rate_valley.svg").exists()

    assert main([*command, "--law", "chinchilla"]) == 0
    assert not list((tmp_path / "report").glob("learning_rate.*"))


def test_a_plan_asks_it_for_the_best_use_of_a_budget(table, tmp_path, capsys):
    command = ["plan", table(**rates()), "--law", "learning_rate", "--budget", "1e22"]
    assert main([*command, "--replicates", "60", "--json", "plan.json"]) in (0, 2)

    said = capsys.readouterr()
    assert "learning_rate" in said.out, said.err
    plan = json.loads((tmp_path / "plan.json").read_text())
    G = (0.35 * 480 / (0.37 * 2100)) ** (1 / 0.72)
    assert plan["n_params"] == pytest.approx(G * (1e22 / 6) ** (0.37 / 0.72), rel=0.1)


def test_a_table_without_its_column_is_refused_by_the_column_and_the_law(table, capsys):
    assert main(["fit", table(), "--law", "learning_rate"]) == 2

    said = capsys.readouterr().err
    assert "the LearningRate law needs learning_rate (peak learning rate, per step)" in said
    assert "--columns learning_rate=NAME" in said


def test_its_column_may_have_another_name(table):
    name = table(peak=case().inputs["lr"])
    command = ["fit", name, "--law", "learning_rate", "--replicates", "0", "--out", "report"]

    assert main([*command, "--columns", "learning_rate=peak"]) == 0


def test_without_the_package_there_is_no_such_law():
    with pytest.raises(ConfigError, match="unknown law 'learning_rate'"):
        LAWS["learning_rate"]
