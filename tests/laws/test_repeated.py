"""Repeated data: the published worth of repetition, the public runs, and what stays open."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scalelab.errors import FitError
from scalelab.laws import solver
from scalelab.laws.forms.repeated import Repeated, effective
from scalelab.laws.observations import Observations

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


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


def simulated(truth, sizes=(2e7, 6e7, 2e8, 6e8, 2e9)):
    """Sizes, lengths and epochs of a known law, free of noise."""
    grid = np.meshgrid(sizes, np.geomspace(1e9, 2e11, 4), [1.0, 4.0, 16.0, 40.0])
    N, D, epochs = (v.ravel() for v in grid)
    L = Repeated().loss(truth, N=N, D=D, U=D / epochs)
    return Observations.of(N, D, L, columns={"n_tokens_unique": D / epochs})


def test_tokens_seen_again_are_worth_what_was_published():
    epochs = np.array([1, 2, 4, 8, 16, 40])

    worth = effective(epochs, np.ones(6), Repeated.published["R_D"]) / epochs

    np.testing.assert_allclose(worth, [1, 0.984, 0.9314, 0.828, 0.661, 0.379], atol=6e-4)
    assert worth[2] == pytest.approx(0.9314, abs=1e-4)


@pytest.mark.parametrize(("N", "D", "loss"), [(6.34e9, 242e9, 2.22564), (8.67e9, 178e9, 2.22696)])
def test_published_constants_give_the_published_losses(N, D, loss):
    law = Repeated()

    assert law.loss(law.published, N=N, D=D, U=25e9) == pytest.approx(loss, abs=1e-5)


def test_without_repetition_it_is_the_chinchilla_law():
    t = Repeated.published
    N, D = 1e9, 2e10  # the optimal size for D

    loss = Repeated().loss(t, N=N, D=D, U=D)

    assert loss == pytest.approx(t["E"] + t["A"] / N ** t["alpha"] + t["B"] / D ** t["beta"])


def test_the_public_runs_fit_better_than_the_published_constants(muennighoff):
    fit = Repeated().fit(muennighoff)

    published = solver.evaluate(fit.surface, fit.surface.theta(Repeated.published)[None])
    assert fit.solver.converged
    assert fit.solver.agreement > 0.9
    assert fit.scaled < 0.6 * published.objective[0]
    assert fit.miss < 0.025


def test_up_to_ten_epochs_the_public_runs_agree_on_what_repeating_is_worth(muennighoff):
    few = muennighoff.take(muennighoff.D / muennighoff.columns["n_tokens_unique"] <= 10)

    fit = Repeated().fit(few)

    assert fit.params["R_D"] == pytest.approx(15.39, abs=7.3)
    assert fit.miss < 0.006


def test_runs_that_overfit_are_counted(muennighoff):
    few = muennighoff.take(muennighoff.D / muennighoff.columns["n_tokens_unique"] <= 10)
    law = Repeated()

    assert any("overfitting" in w for w in law.caveats(muennighoff, law.published))
    assert not any("overfitting" in w for w in law.caveats(few, law.published))


def test_two_exponents_are_recovered_where_they_differ():
    truth = {**Repeated.published, "A": 400.0, "B": 600.0, "alpha": 0.34, "beta": 0.29}

    fit = Repeated(tied=False).fit(simulated(truth))

    assert fit.params == pytest.approx(truth, rel=1e-4)


def test_slope_of_two_exponents_is_the_derivative_of_the_value():
    """On both sides of the size that the unique tokens are optimal for."""
    surface = Repeated(tied=False).bind(simulated(Repeated.published))
    theta = surface.theta({**Repeated.published, "beta": 0.31})

    slope = surface.at(theta[None])[1][0]

    for k, h in enumerate(1e-6 * np.eye(7)):
        rise = surface.at((theta + h)[None])[0] - surface.at((theta - h)[None])[0]
        np.testing.assert_allclose(slope[k], rise[0] / 2e-6, rtol=1e-5, atol=1e-8)


def test_refuses_runs_that_repeat_nothing():
    runs = simulated(Repeated.published)

    once = replace(runs, columns={"n_tokens_unique": runs.D})
    with pytest.raises(FitError, match="no run sees a token twice"):
        Repeated().fit(once)


def test_says_when_no_model_is_large_enough_to_show_r_n():
    runs = simulated(Repeated.published, sizes=(3e5, 5e5, 8e5, 1e6))

    fit = Repeated().fit(runs)

    assert any("R_N is not determined" in w for w in fit.warnings)


def test_one_corpus_read_more_and_less_often_is_enough():
    N, epochs = (a.ravel() for a in np.meshgrid(np.geomspace(1e8, 4e9, 6), [1, 2, 4, 8, 16, 40]))
    U = np.full(N.size, 2e10)
    law = Repeated()
    L = law.loss(law.published, N=N, D=epochs * U, U=U)

    fit = law.fit(Observations.of(N, epochs * U, L, columns={"n_tokens_unique": U}))

    assert fit.params["R_D"] == pytest.approx(law.published["R_D"], rel=1e-3)
