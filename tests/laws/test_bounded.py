"""The bounded law of repeated data: its limits, its own simulated truth, and the public runs beside `repeated`."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scalelab.errors import FitError
from scalelab.laws.forms.bounded import Bounded
from scalelab.laws.forms.repeated import Repeated
from scalelab.laws.observations import Observations

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
TRUTH = {
    "E": 1.9,
    "L0": 9.0,
    "A": 50.0,
    "alpha": 0.35,
    "B": 450.0,
    "beta": 0.4,
    "K": 0.01,
    "gamma": 1.0,
    "delta": 1.0,
}


@pytest.fixture(scope="module")
def muennighoff():
    """The 296 runs of Muennighoff et al. 2023 on C4."""
    path = SHARED / "muennighoff2023_c4_runs.csv"
    if not path.exists():
        pytest.skip("the public points are not beside the repository")
    with open(path, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = ("N", "D_total", "val_loss", "D_unique")
    N, D, L, U = (np.array([float(row[k]) for row in rows]) for k in columns)
    return Observations.of(N, D, L, columns={"n_tokens_unique": U})


def simulated(noise=0.0, seed=0, epochs=(1.0, 4.0, 16.0, 40.0)):
    grid = np.meshgrid(np.geomspace(2e7, 2e9, 5), np.geomspace(1e9, 2e11, 4), epochs)
    N, D, times = (v.ravel() for v in grid)
    L = Bounded().loss(TRUTH, N=N, D=D, U=D / times)
    L = L * np.exp(noise * np.random.default_rng(seed).standard_normal(L.size))
    return Observations.of(N, D, L, columns={"n_tokens_unique": D / times})


@pytest.mark.parametrize("key", ["A", "B", "K"])
def test_the_loss_stays_below_the_ceiling_whatever_the_price(key):
    N, D, U = 1e8, 1e10, 1e9
    losses = [
        float(Bounded().loss(TRUTH | {key: TRUTH[key] * k}, N=N, D=D, U=U)) for k in (1, 1e3, 1e6, 1e12)
    ]

    assert np.all(np.diff(losses) > 0)
    assert losses[-1] < TRUTH["L0"]
    assert losses[-1] == pytest.approx(TRUTH["L0"], rel=1e-4)


def test_without_a_price_it_is_the_floor():
    free = TRUTH | {"A": 0.0, "B": 0.0, "K": 0.0}

    assert Bounded().loss(free, N=1e8, D=1e10, U=1e9) == TRUTH["E"]


def test_far_below_the_ceiling_it_is_a_sum_of_three_prices():
    high = TRUTH | {"L0": TRUTH["E"] + 1e6, "A": 3e-4, "B": 3e-3, "K": 1e-8}
    N, D, U = 1e8, 1e10, 1e9

    loss = Bounded().loss(high, N=N, D=D, U=U)

    prices = 1e6 * (3e-4 / N**0.35 + 3e-3 / D**0.4 + 1e-8 * N / U)
    assert prices > 0.1
    assert loss == pytest.approx(TRUTH["E"] + prices, rel=1e-5)


def test_recovers_its_own_truth_from_noisy_runs():
    fit = Bounded().fit(simulated(noise=0.002))

    drawn = fit.replicates(200, seed=0)
    assert not fit.broken
    for name, value in TRUTH.items():
        low, high = np.quantile(drawn.values[name], [0.005, 0.995])
        assert low < value < high, name
    assert fit.params["L0"] == pytest.approx(9.0, rel=0.05)
    assert fit.params["gamma"] == pytest.approx(1.0, abs=0.03)


def test_on_the_public_runs_it_describes_more_than_the_unbounded_law(muennighoff):
    """Medians and means of |ln error|: 1.8 and 5.2% against 2.1 and 7.1% in sample."""

    def errors(law, seen, asked):
        return np.abs(np.log(law.fit(seen).expected(asked) / asked.L))

    mine, other = (errors(law, muennighoff, muennighoff) for law in (Bounded(), Repeated()))
    assert np.median(mine) < 0.95 * np.median(other)
    assert mine.mean() < 0.8 * other.mean()

    few = muennighoff.D / muennighoff.columns["n_tokens_unique"] <= 10
    mine, other = (
        errors(law, muennighoff.take(few), muennighoff.take(~few)) for law in (Bounded(), Repeated())
    )
    assert np.median(mine) < 0.7 * np.median(other)


def test_reports_runs_above_the_ceiling(muennighoff):
    fit = Bounded().fit(muennighoff)

    over = int(np.sum(1.02 * fit.params["L0"] < muennighoff.L))
    assert over > 0
    assert any(f"{over} of 296 runs end over 2% above the ceiling" in w for w in fit.warnings)


def test_refuses_runs_that_repeat_nothing():
    runs = simulated()

    with pytest.raises(FitError, match="no run sees a token twice"):
        Bounded().fit(replace(runs, columns={"n_tokens_unique": runs.D}))


def test_a_ceiling_that_no_run_comes_near_is_not_determined():
    """Losses within 2% of each other: the ceiling stops at the edge of the search, and the fit says so."""
    grid = np.meshgrid(np.geomspace(1e9, 4e9, 5), np.geomspace(1e11, 4e11, 4), [1.0, 2.0])
    N, D, times = (v.ravel() for v in grid)
    L = Bounded().loss(TRUTH | {"L0": 1e3, "A": 0.3, "B": 3.0, "K": 1e-5}, N=N, D=D, U=D / times)

    fit = Bounded().fit(Observations.of(N, D, L, columns={"n_tokens_unique": D / times}))

    assert any("L0" in reason for reason in fit.broken)


def test_allots_no_compute():
    fit = Bounded().fit(simulated())

    assert fit.optimum(1e22) is None
    assert fit.exponents == {}
