"""The joint law: exact on exact runs, its derivative, and what a multiplier means."""

from dataclasses import replace

import numpy as np
import pytest
from compare import DESIGNS, LAW

from scalelab.comparison.arms import together
from scalelab.comparison.efficiency import NAMES, EfficiencySurface, fit_efficiency
from scalelab.comparison.pairwise import PairSettings, compare_pair
from scalelab.laws.observations import Observations

EXACT = PairSettings(replicates=0)


def test_exact_runs_give_back_multiplier_trend_size_and_crossing(simulated):
    pair = compare_pair(*simulated(m=1.5, s=0.06, t=1.3, noise=0.0), EXACT)

    assert pair.multiplier == pytest.approx(1.5, rel=1e-8)
    assert pair.trend == pytest.approx(10**0.06, rel=1e-8)
    assert pair.fit.params["t"] == pytest.approx(1.3, rel=1e-7)
    for name, value in (LAW | {"k": 1.0}).items():
        assert pair.fit.params[name] == pytest.approx(value, rel=1e-6)
    cross = compare_pair(*simulated(m=1.1, s=0.04, noise=0.0), EXACT).crossing
    assert cross.best == pytest.approx(pair.C_0 * np.exp(-np.log(1.1) / 0.04), rel=1e-6)
    assert (cross.low, cross.high) == pytest.approx((cross.best, cross.best), rel=0.02)  # steps of the grid


def test_runs_of_other_sizes_and_budgets_give_the_same_multiplier(simulated):
    baseline, _ = simulated(noise=0.0)
    _, variant = simulated(m=1.25, noise=0.0, budgets=(2e17, 2e18, 10**18.5), sizes=4)

    pair = compare_pair(baseline, variant, EXACT)

    assert pair.multiplier == pytest.approx(1.25, rel=1e-6)
    assert pair.trend == pytest.approx(1.0, abs=1e-6)


def test_the_frontier_of_the_variant_is_that_of_the_baseline_at_m_times_the_compute(simulated):
    fit = compare_pair(*simulated(m=1.4, s=0.05, t=0.8), EXACT).fit
    C = np.geomspace(1e17, 1e20, 7)

    variant, worth = fit.frontier(C, True), np.exp(fit.ln_multiplier(C)) * C

    np.testing.assert_allclose(variant.L, fit.frontier(worth, False).L, rtol=1e-12)
    np.testing.assert_allclose(variant.N, fit.frontier(C, False).N * fit.params["t"], rtol=1e-12)


def test_the_frontier_is_the_lowest_point_of_the_law(simulated):
    fit = compare_pair(*simulated(m=1.4, s=0.05, t=0.8), EXACT).fit
    E, A, B, alpha, beta, k = (fit.params[name] for name in ("E", "A", "B", "alpha", "beta", "k"))
    N = np.geomspace(1e6, 1e11, 20_001)

    loss = E + ((A / N**alpha) ** (1 / k) + (B / (1e19 / 6 / N) ** beta) ** (1 / k)) ** k

    best = fit.frontier(1e19, False)
    assert float(best.L[0]) == pytest.approx(loss.min(), rel=1e-8)
    assert float(best.N[0]) == pytest.approx(N[np.argmin(loss)], rel=1e-3)


def test_a_recipe_that_spends_more_flops_per_token_pays_for_them(simulated):
    baseline, variant = simulated(noise=0.0)
    dear = replace(variant, runs=_with_flops(variant.runs, 1.5))  # the same losses for 1.5 times the compute

    pair = compare_pair(baseline, dear, EXACT)

    loss = float(pair.fit.frontier(pair.C_0, True).L[0])
    seen = float(pair.fit.frontier(pair.C_0 / 1.5, False).L[0])
    assert pair.multiplier < 0.75  # 1 / 1.5, and what its sizes are now off the best ones at a budget
    assert loss > seen - 0.002


def _with_flops(runs, factor):
    return Observations.of(
        runs.N, runs.D, runs.L, C=runs.C * factor, flops_planned=runs.flops_planned * factor, seed=runs.seed
    )


def test_the_derivative_is_that_of_the_loss(simulated):
    runs, z = together(*(arm.runs for arm in simulated(m=1.2)))
    surface = EfficiencySurface.of(runs, z, 1e18)
    theta = np.array([[0.4, 0.3, -0.2, -1.1, -0.9, -0.4, 0.2, 0.05, -0.3]])
    _, slope = surface.at(theta)

    for k, name in enumerate(NAMES):
        step = np.zeros_like(theta)
        step[0, k] = 1e-5
        by_hand = (surface.at(theta + step)[0] - surface.at(theta - step)[0]) / 2e-5
        assert slope[:, k] == pytest.approx(by_hand, abs=1e-8), name


def test_one_rung_has_no_trend_and_a_ladder_no_best_size(simulated):
    ladder, _ = simulated(design=DESIGNS[3])
    _, rung = simulated(m=1.3, design=DESIGNS[3], budgets=(1e18,), noise=1e-6)
    runs, z = together(ladder.runs, rung.runs)

    fit = fit_efficiency(runs, z, 1e18, 0.004)

    assert not fit.has_trend
    assert not fit.has_size
    assert fit.params["t"] == 1.0
