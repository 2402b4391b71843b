"""Sized for use: published cases, the limit of no use, a plain search, refusals."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from scalelab.errors import PlanError
from scalelab.laws.forms.chinchilla import Chinchilla
from scalelab.plan.choose.inference_demand import serve

SARDANA = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.336, "beta": 0.283}


def loss_of(N):
    """The loss of a compute-optimal model of N parameters."""
    # alpha A / N^alpha = beta B / D^beta
    D = (0.283 * 410.7 / (0.336 * 406.4 / N**0.336)) ** (1 / 0.283)
    return float(Chinchilla().loss(SARDANA, N=N, D=D)), D


@pytest.mark.parametrize(
    ("N", "D", "demand", "n_params", "n_tokens", "saved"),
    [(30e9, 1.556e12, 5e12, 16.41e9, 3.26e12, 0.163), (70e9, 4.255e12, 1e13, 41.55e9, 7.92e12, 0.119)],
)
def test_reproduces_the_published_cases(N, D, demand, n_params, n_tokens, saved):
    loss, optimal = loss_of(N)

    best = serve(SARDANA, loss, demand)

    assert optimal == pytest.approx(D, rel=1e-3)
    assert best.n_params == pytest.approx(n_params, rel=0.005)
    assert best.n_tokens == pytest.approx(n_tokens, rel=0.005)
    assert 1 - best.flops / (6 * N * D + 2 * N * demand) == pytest.approx(saved, abs=0.001)


def test_without_demand_it_is_the_compute_optimal_model():
    loss, D = loss_of(30e9)

    best = serve(SARDANA, loss, 0)

    assert (best.n_params, best.n_tokens) == pytest.approx((30e9, D))


def test_no_other_size_of_that_loss_is_cheaper():
    loss, demand = 2.0, 3e12

    best = serve(SARDANA, loss, demand)

    def flops(ln_N):
        N = np.exp(ln_N)
        D = (410.7 / (loss - 1.69 - 406.4 / N**0.336)) ** (1 / 0.283)
        return 6 * N * D + 2 * N * demand

    lowest = (406.4 / (loss - 1.69)) ** (1 / 0.336)
    found = minimize_scalar(flops, bounds=(np.log(lowest * 1.001), np.log(lowest * 1e4)), method="bounded")
    assert best.flops == pytest.approx(found.fun, rel=1e-6)


def test_more_demand_makes_a_smaller_model_trained_for_longer():
    series = [serve(SARDANA, 2.0, demand) for demand in (0, 1e11, 1e12, 1e13)]

    assert np.all(np.diff([s.n_params for s in series]) < 0)
    assert np.all(np.diff([s.tokens_per_param for s in series]) > 0)


def test_refuses_a_loss_below_the_floor():
    with pytest.raises(PlanError, match=r"not above the law's floor of 1\.69"):
        serve(SARDANA, 1.6, 0)


def test_refuses_a_negative_demand():
    with pytest.raises(PlanError, match="a demand of -1 tokens"):
        serve(SARDANA, 2.0, -1)
