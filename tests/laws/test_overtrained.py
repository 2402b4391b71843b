"""The law of overtraining: the authors' runs and forecasts, and what the law leaves open."""

import csv
from pathlib import Path

import numpy as np
import pytest

from scalelab.laws.forms.overtrained import Overtrained
from scalelab.laws.observations import Observations

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def gadre(corpus):
    """The authors' five training runs on a corpus, and all of them: loss on C4 at the end."""
    path = SHARED / "gadre2024_models.csv"
    if not path.exists():
        pytest.skip("the public points are not beside the repository")
    with open(path, encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["dataset"] == corpus]
    N, D, L = (np.array([float(row[k]) for row in rows]) for k in ("N", "D", "loss_c4_val"))
    runs, M = Observations.of(N, D, L), np.round(D / N)
    five = ((N < 5e8) & (M == 20)) | ((N < 2e7) & (M == 320))
    return runs.take(five), runs


def error(fit, runs, N, M):
    """How far the forecast of one of the runs is off, as a share of its loss."""
    row = np.flatnonzero((np.abs(runs.N / N - 1) < 0.1) & (np.round(runs.D / runs.N) == M))
    assert row.size == 1
    return float(fit.expected(runs.take(row))[0] / runs.L[row][0] - 1)


def simulated(ratios, **constants):
    """Four sizes at each of these tokens per parameter, free of noise."""
    truth = Overtrained.published | constants
    N, M = (v.ravel() for v in np.meshgrid(np.geomspace(1e7, 4e8, 4), ratios))
    return Observations.of(N, M * N, Overtrained().loss(truth, N=N, D=M * N))


def test_reproduces_the_five_run_fit_on_c4():
    five, _ = gadre("c4_original")

    fit = Overtrained("squares").fit(five)

    assert len(five) == 5
    assert fit.params == pytest.approx({"E": 1.5083, "A": 141.3, "B": 189.5, "eta": 0.1212}, rel=1e-3)
    assert fit.params == pytest.approx(Overtrained.published, rel=1e-6)


def test_reproduces_the_five_run_fit_on_redpajama():
    """The authors' code writes 166.2 for A: theirs lacks the factor 6^eta."""
    five, _ = gadre("rpj")

    found = Overtrained("squares").fit(five).params

    assert found["E"] == pytest.approx(1.83665, abs=1e-5)
    assert 2 * found["eta"] == pytest.approx(0.27285, abs=1e-5)
    assert found["A"] / 6 ** found["eta"] == pytest.approx(166.2, rel=1e-3)
    assert found["B"] == pytest.approx(366.7, rel=1e-3)


def test_reproduces_the_published_forecasts_on_redpajama():
    five, runs = gadre("rpj")

    fit = Overtrained("squares").fit(five)

    assert error(fit, runs, 1.4e9, 640) == pytest.approx(0.007103, abs=1e-6)
    assert error(fit, runs, 6.9e9, 20) == pytest.approx(0.007320, abs=1e-6)


def test_at_one_ratio_the_loss_above_the_floor_is_one_power_of_compute():
    law, N = Overtrained(), np.geomspace(1e7, 1e10, 4)

    above = law.loss(law.published, N=N, D=300 * N) - law.published["E"]

    power = np.diff(np.log(above)) / np.diff(np.log(6 * N * 300 * N))
    np.testing.assert_allclose(power, -law.published["eta"], rtol=1e-12)


def test_its_best_ratio_is_the_same_at_every_budget():
    fit = Overtrained().fit(simulated((20, 80, 320)))

    best = fit.optimum(np.array([1e18, 1e24]))

    assert fit.exponents == {"a": 0.5, "b": 0.5}
    np.testing.assert_allclose(best.D / best.N, (189.5155 / 141.2773) ** (0.5 / 0.1212361), rtol=1e-6)


def test_exponents_that_were_assumed_are_called_assumed():
    fit = Overtrained().fit(simulated((20, 80, 320)))

    assert any("is assumed" in w for w in fit.warnings)


def test_runs_below_twenty_tokens_per_parameter_are_named():
    few, many = simulated((5, 20, 80)), simulated((20, 80, 320))

    assert any("4 of 12 runs have under 20 tokens" in w for w in Overtrained().fit(few).warnings)
    assert not any("runs have under" in w for w in Overtrained().fit(many).warnings)


def test_an_optimum_below_twenty_tokens_per_parameter_is_named():
    low, high = (Overtrained().fit(simulated((20, 80, 320), B=B)) for B in (190.0, 400.0))

    assert any("its optimum has 3.39 tokens per parameter" in w for w in low.warnings)
    assert not any("its optimum has" in w for w in high.warnings)
