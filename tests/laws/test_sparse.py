"""The law of active and total parameters: what it needs to see, and what it says of idle ones."""

import numpy as np
import pytest

from scalelab.errors import FitError
from scalelab.laws.forms.chinchilla import Chinchilla
from scalelab.laws.forms.sparse import Sparse
from scalelab.laws.observations import Observations

TRUTH = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37, "sigma": 0.12}


def runs(ratios=(1.0, 4.0, 16.0), noise=0.0, **truth):
    N, D, ratio = (
        values.ravel()
        for values in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 4), ratios)
    )
    L = Sparse().loss(TRUTH | truth, N=N, D=D, T=N * ratio)
    L = L * np.exp(noise * np.random.default_rng(0).standard_normal(len(N)))
    return Observations.of(N, D, L, columns={"n_params_total": N * ratio})


@pytest.mark.parametrize("sigma", [0.3, 0.0, -0.1])
def test_it_finds_what_idle_parameters_are_worth(sigma):
    fit = Sparse().fit(runs(sigma=sigma))

    assert fit.params["sigma"] == pytest.approx(sigma, abs=1e-5)
    assert fit.params["alpha"] == pytest.approx(0.35, rel=1e-4)
    assert not fit.broken


def test_dense_runs_would_be_those_of_the_chinchilla_law():
    N, D = np.array([1e8, 1e9]), np.array([1e10, 1e11])
    three = {name: TRUTH[name] for name in ("E", "A", "B", "alpha", "beta")}

    assert Sparse().loss(TRUTH, N=N, D=D, T=N) == pytest.approx(Chinchilla().loss(three, N=N, D=D))


def test_it_says_where_idle_parameters_are_of_no_use():
    (said,) = Sparse().fit(runs(sigma=-0.1)).warnings

    assert said == "idle parameters are fitted to be of no use: sigma = -0.1"


def test_one_ratio_alone_is_refused():
    with pytest.raises(FitError, match=r"total over active parameters spans only 1\.00x"):
        Sparse().fit(runs(ratios=(8.0,)))


def test_total_parameters_as_n_are_refused():
    data = runs()
    wrong = Observations.of(
        data.N * 4, data.D, data.L, columns={"n_params_total": data.columns["n_params_total"]}
    )

    with pytest.raises(FitError, match="fewer parameters in all than a token uses"):
        Sparse().fit(wrong)
