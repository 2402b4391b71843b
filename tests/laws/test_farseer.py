"""Farseer's law: the authors' largest runs from their smaller ones, and what it refuses."""

import csv
from pathlib import Path

import numpy as np
import pytest

from scalelab.errors import FitError
from scalelab.laws.forms.farseer import SERIES, Farseer, power
from scalelab.laws.observations import Observations

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.fixture(scope="module")
def published():
    """404 smaller runs of Li et al. 2025, and the 7 largest."""
    path = SHARED / "farseer2025.csv"
    if not path.exists():
        pytest.skip("the public points are not beside the repository")
    with open(path, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))

    def runs(split):
        columns = ("n_params", "n_tokens", "loss")
        return Observations.of(*([float(r[k]) for r in rows if r["split"] == split] for k in columns))

    return runs("train"), runs("test")


def simulated(sizes, lengths):
    N, D = (v.ravel() for v in np.meshgrid(np.geomspace(2e8, 6e9, sizes), np.geomspace(2e9, 2e11, lengths)))
    return Observations.of(N, D, Farseer().loss(Farseer.published, N=N, D=D))


def test_forecasts_the_largest_runs_of_its_authors_within_a_percent(published):
    smaller, largest = published

    fit = Farseer().fit(smaller)

    errors = fit.expected(largest) / largest.L - 1
    assert np.abs(errors).max() < 0.0098
    assert np.abs(errors).mean() < 0.0045
    assert not fit.broken
    assert fit.solver.starts >= 24
    assert fit.solver.agreement > 0.9
    assert fit.params == pytest.approx(Farseer.published, rel=1e-5)


@pytest.mark.parametrize("q", [0.0, 1e-7, -SERIES / 2 * 0.999, SERIES / 2 * 1.001, 0.3, -1.0])
def test_a_box_cox_power_and_its_derivatives(q):
    n = np.array([-2.0, -0.5, 0.0, 1.0, 2.0])

    value, first, second = power(n, np.full(5, q))

    exact = np.expm1(q * n) / q if q else n
    h = 1e-4
    up, down = power(n, np.full(5, q + h)), power(n, np.full(5, q - h))
    np.testing.assert_allclose(value, exact, rtol=1e-9)
    np.testing.assert_allclose(first, (up[0] - down[0]) / (2 * h), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(second, (up[1] - down[1]) / (2 * h), rtol=1e-6, atol=1e-9)


def test_too_few_runs_and_sizes_are_refused_with_their_number():
    with pytest.raises(FitError, match="59 runs of different N and D at 12 sizes") as few:
        Farseer().fit(simulated(12, 5).take(np.arange(59)))
    with pytest.raises(FitError, match=r"at 5 sizes .* needs 60 at 6 sizes"):
        Farseer().fit(simulated(5, 20))

    assert "chinchilla" in few.value.fix


def test_repeats_of_a_run_are_no_further_runs():
    once = simulated(7, 8)
    twice = Observations.of(np.tile(once.N, 2), np.tile(once.D, 2), np.tile(once.L, 2))

    with pytest.raises(FitError, match="56 runs of different N and D"):
        Farseer().fit(twice)


def test_allots_no_compute_and_says_so():
    fit = Farseer().fit(simulated(9, 9))

    assert fit.optimum(1e22) is None
    assert fit.exponents == {}
    assert any("N* is known to be wrong" in w for w in fit.warnings)
