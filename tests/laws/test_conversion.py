"""Either count of parameters: the published exponents, their limits, and the way back."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from scalelab.laws.forms import chinchilla
from scalelab.laws.token_cost import TokenCost
from scalelab.study.conversion import (
    frontier_compute,
    local_exponent,
    non_embedding_params,
    regressed_exponent,
    total_params,
)

EPOCH = {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}
HOFFMANN = {"E": 1.6934, "A": 406.4, "B": 410.7, "alpha": 0.3392, "beta": 0.2849}
KAPLAN_RANGE = (768, 1.5e9)


@pytest.mark.parametrize(("surface", "exponent"), [(EPOCH, 0.781), (HOFFMANN, 0.739)])
def test_kaplans_sizes_report_kaplans_exponent(surface, exponent):
    assert regressed_exponent(surface, *KAPLAN_RANGE) == pytest.approx(exponent, abs=0.01)


@pytest.mark.parametrize(("surface", "exponent"), [(EPOCH, 0.515), (HOFFMANN, 0.458)])
def test_the_same_sizes_counted_whole_report_hoffmanns(surface, exponent):
    whole = total_params(np.array(KAPLAN_RANGE))

    assert regressed_exponent(surface, *whole, omega=0) == pytest.approx(exponent, abs=0.01)


def test_the_exponent_runs_from_one_limit_to_the_other():
    alpha, beta = EPOCH["alpha"], EPOCH["beta"]

    small, large = local_exponent(np.array([1e-3, 1e16]), EPOCH)

    assert small == pytest.approx(beta / (beta + alpha / 3), abs=1e-4)
    assert large == pytest.approx(beta / (alpha + beta), abs=1e-4)


def test_the_local_exponent_is_the_slope_of_the_frontier():
    N = np.geomspace(1e4, 1e11, 8)

    slope = np.log(frontier_compute(N * 1.0001, EPOCH) / frontier_compute(N / 1.0001, EPOCH))

    np.testing.assert_allclose(2 * np.log(1.0001) / slope, local_exponent(N, EPOCH), rtol=1e-7)


def test_the_frontier_is_the_lowest_loss_of_its_compute():
    C = float(frontier_compute(1e8, EPOCH))

    def loss(x):
        N, D = np.exp(x), C / 6 / np.exp(x)
        T = N + 47491 * N ** (1 / 3)
        return EPOCH["A"] / T ** EPOCH["alpha"] + EPOCH["B"] / D ** EPOCH["beta"]

    found = minimize_scalar(loss, bounds=(15, 22), method="bounded", options={"xatol": 1e-9})
    assert np.exp(found.x) == pytest.approx(1e8, rel=1e-4)


@pytest.mark.parametrize("omega", [47491.0, 1000.0, 0.0])
def test_both_counts_lead_to_each_other(omega):
    N = np.geomspace(1, 1e13, 27)

    np.testing.assert_allclose(non_embedding_params(total_params(N, omega), omega), N, rtol=1e-9)


def test_without_embeddings_it_is_chinchillas_frontier():
    """The published constants at 5.88e23 FLOPs: 73.0B parameters, 18.4 tokens for each."""
    best = chinchilla.optimum(EPOCH, np.asarray(5.88e23), TokenCost(6.0, 0.0, 0.0))

    G = best.N / (5.88e23 / 6) ** (EPOCH["beta"] / (EPOCH["alpha"] + EPOCH["beta"]))

    assert pytest.approx(0.1196, rel=5e-3) == G
    assert pytest.approx(73.0e9, rel=5e-3) == best.N
    assert float(best.D / best.N) == pytest.approx(18.4, rel=5e-3)
    assert frontier_compute(best.N, EPOCH, omega=0) == pytest.approx(5.88e23, rel=1e-9)
