"""The price of a token in round numbers, and the optimum that follows from it."""

import numpy as np
import pytest

from scalelab.laws.forms.chinchilla import Chinchilla, optimum
from scalelab.laws.observations import Observations
from scalelab.laws.token_cost import TokenCost

SIX_N = TokenCost(6.0, 0.0, 0.0)


def test_a_price_and_its_slope_by_hand():
    """At N = 1e4: 6e4 + 1000 x 100 = 1.6e5, of which a change of N by 1% moves 6e4 fully and
    1e5 by half: (6e4 + 5e4) / 1.6e5.
    """
    cost = TokenCost(6.0, 1000.0, 0.0)

    assert cost(1e4) == 1.6e5
    assert cost.log_slope(1e4) == pytest.approx(0.6875)
    assert SIX_N.log_slope(1e4) == 1


def test_what_the_runs_spent_is_found_again():
    N = np.geomspace(1e5, 1e8, 8)
    D = np.full(8, 1e9)

    cost = TokenCost.of(Observations.of(N, D, np.full(8, 3.0), C=(6 * N + 1000 * np.sqrt(N)) * D))

    assert (cost.p, cost.q) == pytest.approx((6, 1000))


def test_without_flops_a_token_costs_six_n():
    N = np.geomspace(1e5, 1e8, 8)

    runs = Observations.of(N, 20 * N, np.full(8, 3.0))

    assert np.allclose(runs.C, 6 * N * 20 * N, rtol=1e-12)
    assert TokenCost.of(runs) == SIX_N


def test_the_optimum_of_published_constants_at_published_compute():
    """Besiroglu et al. 2024: 5.88e23 FLOPs want 73.0B parameters and 18.4 tokens for each; three
    digits are given.
    """
    params = {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}

    best = optimum(params, 5.88e23, SIX_N)

    found = float(best.N), float(best.D / best.N)
    assert found == pytest.approx((73.0e9, 18.4), rel=0.005)
    assert Chinchilla().exponents(params) == pytest.approx({"a": 0.3658 / 0.7136, "b": 0.3478 / 0.7136})
