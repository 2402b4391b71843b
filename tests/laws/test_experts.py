"""The law of dense size and experts: least squares, what it says of itself, and a public table."""

from pathlib import Path

import numpy as np
import pytest

from scalelab.errors import FitError
from scalelab.laws.forms.experts import Experts
from scalelab.laws.observations import Observations

TABLE = Path(__file__).parents[3] / "shared" / "data" / "moe_routed.csv"


def runs(noise=0.0, D=1.3e11, **truth):
    N, M = (values.ravel() for values in np.meshgrid(np.geomspace(1e7, 1e9, 5), 2.0 ** np.arange(0, 10, 3)))
    L = Experts().loss({"k": 2.5, "alpha": 0.08, "beta": 0.1, "gamma": 0.004} | truth, N=N, M=M)
    L = L * np.exp(noise * np.random.default_rng(0).standard_normal(len(N)))
    return Observations.of(N, np.broadcast_to(D, N.shape).astype(float), L, columns={"n_experts": M})


def test_with_errors_below_delta_it_is_least_squares():
    data = runs(noise=1e-4)
    x, y = np.log(data.N), np.log(data.columns["n_experts"])
    wanted, *_ = np.linalg.lstsq(np.stack([np.ones_like(x), -x, -y, x * y], 1), np.log(data.L), rcond=None)

    fit = Experts().fit(data)

    assert list(fit.params.values()) == pytest.approx(list(wanted), rel=1e-6)
    assert not fit.broken


def test_it_says_where_experts_help_no_more_and_that_tokens_differ():
    (near,) = Experts().fit(runs(gamma=0.005)).warnings  # 0.1 / 0.005 = 20: N = e^20
    assert near == "experts are predicted to help no more beyond N = 4.9e+08"
    assert Experts().fit(runs(gamma=0.001)).warnings == ()

    D = np.where(np.arange(20) < 10, 1e11, 2e11)
    assert "the runs differ in it by a factor of 2" in Experts().fit(runs(gamma=0.001, D=D)).warnings[0]


def test_dense_runs_alone_are_refused():
    data = runs()
    dense = data.take(np.flatnonzero(data.columns["n_experts"] == 1))

    with pytest.raises(FitError, match=r"M spans only 1\.00x"):
        Experts().fit(dense)


@pytest.mark.skipif(not TABLE.exists(), reason="the public table is not here")
def test_it_forecasts_a_larger_size_better_than_its_neighbours():
    names = ("num_experts", "dense_parameter_count", "loss_validation")
    table = np.genfromtxt(TABLE, delimiter=",", names=True, dtype=None, encoding="utf-8")
    M, N, L = (table[name].astype(float) for name in names)
    fitted = table["split"] == "train"
    data = Observations.of(N[fitted], np.full(193, 1.3e11), L[fitted], columns={"n_experts": M[fitted]})

    error = Experts().fit(data).predict(N=N[~fitted], M=M[~fitted]) / L[~fitted] - 1

    assert len(error) == 28
    assert np.abs(error).mean() == pytest.approx(0.0186, abs=2e-4)
