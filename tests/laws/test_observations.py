"""Observations refuse what no law may see, and name the runs."""

import numpy as np
import pytest

from scalelab.errors import DataError, FitError
from scalelab.laws.base import Observations
from scalelab.laws.forecast import SeedNoise
from scalelab.laws.tokencost import TokenCost


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_refuses_a_diverged_run_and_says_which(family, value):
    runs = family()
    L = np.where(np.arange(len(runs)) == 7, value, runs.L)

    with pytest.raises(DataError, match=r"L must be positive and finite(.|\n)*7 \(row 7\)"):
        Observations.of(runs.N, runs.D, L)


def test_refuses_a_run_given_twice():
    with pytest.raises(DataError, match=r"stand once only(.|\n)*2 \(a\)"):
        Observations.of([1, 2, 3], [1, 2, 3], [1, 2, 3], run=["a", "b", "a"])


def test_refuses_columns_of_unequal_length():
    with pytest.raises(DataError, match=r"D has shape \(2,\), not \(3,\)"):
        Observations.of([1, 2, 3], [1, 2], [1, 2, 3], C=[1, 2, 3])


def test_budgets_are_told_apart_exactly():
    planned = [1e18, 1e18 * (1 + 1e-12), np.nan]
    runs = Observations.of([1, 2, 3], [1, 2, 3], [1, 2, 3], flops_planned=planned)

    assert len(runs.budgets) == 2


def test_seed_noise_is_pooled_over_repeated_points():
    N, L = np.array([1.0, 1, 2, 2, 3]), np.array([3.0, 3.2, 2.0, 2.4, 9.0])
    runs = Observations.of(N, N, L)

    noise = SeedNoise.of(runs)

    assert noise.dof == 2
    assert noise.sd == pytest.approx(np.sqrt((0.02 + 0.08) / 2))
    assert SeedNoise.of(runs.take(np.array([0, 2, 4]))) is None


def test_token_cost_is_6n_where_every_run_spent_that(family):
    assert (TokenCost.of(family()).p, TokenCost.of(family()).q) == (6.0, 0.0)


def test_token_cost_follows_attention(measured):
    cost = TokenCost.of(measured)

    assert cost.miss < 0.01
    width = 512  # three times past the widest run: 24 d^2 + 1024 d weights, 768 d for attention
    N = 24 * width**2 + 1024 * width
    assert cost(N) == pytest.approx(6 * N + 768 * width, rel=0.02)


def test_token_cost_slope_is_the_derivative(measured):
    cost, N = TokenCost.of(measured), 1e5
    h = 1e-5

    numeric = (np.log(cost(N * np.exp(h))) - np.log(cost(N * np.exp(-h)))) / (2 * h)

    assert cost.slope(N) == pytest.approx(numeric, rel=1e-8)


def test_refuses_flops_that_fall_with_size():
    N = np.geomspace(1e6, 1e8, 5)

    with pytest.raises(FitError, match="do not grow with their parameters"):
        TokenCost.of(Observations.of(N, np.full(5, 1e9), np.ones(5), C=1e9 * 1e12 / N))
