"""Errors of the joint fit: units, standard errors, and the redrawn fits that follow them."""

from dataclasses import replace

import numpy as np
import pytest
from compare import DESIGNS, judged

from scalelab.comparison.efficiency import TREND
from scalelab.comparison.pairing import shared_luck
from scalelab.comparison.pairwise import PairSettings, compare_pair
from scalelab.comparison.redrawing import error_model
from scalelab.errors import FitError
from scalelab.laws.observations import Observations


def test_redrawn_fits_have_the_spread_and_the_tails_of_the_test(simulated):
    pair = compare_pair(*simulated(m=1.2), PairSettings(replicates=4000))
    drawn = pair.fit.ln_multiplier([pair.C_0], pair.theta)[:, 0]

    assert np.mean(drawn) == pytest.approx(np.log(pair.multiplier), abs=4 * pair.se / 60)
    ends = np.exp(np.quantile(drawn, [0.1, 0.9]))
    assert ends == pytest.approx(pair.multiplier_interval(pair.C_0), abs=0.1 * pair.se)


def test_the_standard_error_is_that_of_repeated_experiments(simulated):
    found = [judged(simulated(m=1.1, seed=k, design=DESIGNS[2])).pairs[0].pair for k in range(60)]

    spread = np.std([np.log(pair.multiplier) for pair in found])

    assert np.sqrt(np.mean([pair.se**2 for pair in found])) == pytest.approx(spread, rel=0.3)


def test_residuals_are_raised_by_what_the_fit_took(simulated):
    fit = compare_pair(*simulated(m=1.2, design=DESIGNS[2]), PairSettings(replicates=0)).fit
    each = np.arange(len(fit.runs))

    errors = error_model(fit, each, each, each, each)

    leverage = np.sum((errors.X @ errors.inverse) * errors.X, axis=1)
    assert errors.adjusted == pytest.approx(fit.residuals / np.sqrt(1 - leverage), rel=1e-9)
    assert leverage.max() > 0.3


def test_intervals_of_a_frontier_hold_their_estimate_and_are_as_wide_as_its_spread(simulated):
    arms = simulated(m=1.2)
    pair = compare_pair(*arms, PairSettings(replicates=4000))
    found = pair.frontier(True)
    drawn = pair.fit.gamma(pair.theta) * (1 + pair.theta[:, TREND])

    assert found.slope_interval[0] < found.slope < found.slope_interval[1]
    assert found.loss_interval[0] < found.loss < found.loss_interval[1]
    assert found.n_params_interval[0] < found.n_params < found.n_params_interval[1]
    assert np.diff(found.slope_interval) == pytest.approx(np.diff(np.quantile(drawn, [0.1, 0.9])), rel=0.15)


def test_a_ladder_has_no_slope_and_no_best_size(simulated):
    found = compare_pair(*simulated(design=DESIGNS[3]), PairSettings(replicates=0)).frontier(False)

    assert (found.slope, found.slope_interval, found.n_params, found.n_params_interval) == (None,) * 4
    assert found.loss_interval[0] < found.loss < found.loss_interval[1]


def test_shared_noise_narrows_the_interval(simulated):
    apart, together = (
        compare_pair(*simulated(seed=3, shared=share), PairSettings(replicates=0)).se for share in (0.0, 0.9)
    )

    assert together < 0.6 * apart


def test_a_stated_noise_replaces_the_measured_one(simulated):
    small, large = (
        compare_pair(*simulated(seeds=1, sizes=5), PairSettings(noise=noise, replicates=0))
        for noise in (0.01, 0.02)
    )

    assert np.isinf(small.dof)
    assert large.se == pytest.approx(2 * small.se, rel=0.05)  # the priors keep theirs


def _runs(n, **columns):
    N, D = np.full(n, 1e7), np.full(n, 1e9)
    return Observations.of(columns.pop("N", N), D, np.full(n, 3.0), **columns)


def test_runs_of_one_seed_are_a_pair_and_a_trunk_is_one_unit():
    seeds = np.array(["0", "1", "0", "2"])
    z = np.array([0.0, 0, 1, 1])
    luck = shared_luck(_runs(4, seed=seeds), z)
    assert luck.pairs == 1
    assert luck.unit[0] == luck.unit[2]
    assert len({*luck.unit.tolist()}) == 3

    sizes = np.array([1e7, 2e7, 1e7, 2e7])
    trunk = _runs(4, N=sizes, seed=np.zeros(4).astype(str), group=np.array(["a", "a", "b", "c"]))
    luck = shared_luck(trunk, z)
    assert luck.pairs == 2
    assert len({*luck.unit.tolist()}) == 1  # both branches of the trunk, and their partners


def test_runs_without_a_seed_or_with_one_written_twice_have_no_partner():
    z = np.repeat([0.0, 1.0], 2)

    assert shared_luck(_runs(4, seed=np.full(4, "")), z).pairs == 0
    assert shared_luck(_runs(4, seed=np.array(["1", "1", "1", "2"])), z).pairs == 0


def test_runs_of_one_label_are_one_unit():
    z = np.repeat([0.0, 1.0], 2)
    luck = shared_luck(_runs(4, seed=np.full(4, ""), group=np.array(["0:a", "0:b", "1:t", "1:t"])), z)

    assert luck.unit[2] == luck.unit[3]
    assert len({*luck.unit.tolist()}) == 3


def test_a_stated_noise_is_shared_within_a_trunk(simulated):
    arms = simulated(design=DESIGNS[2])
    trunks = [
        replace(arm, runs=replace(arm.runs, group=np.array([f"seed {seed}" for seed in arm.runs.seed])))
        for arm in arms
    ]
    apart, joined = (compare_pair(*each, PairSettings(noise=0.01, replicates=0)) for each in (arms, trunks))

    assert joined.se > 1.5 * apart.se
    assert joined.errors.units == 4


def test_too_few_units_are_refused(simulated):
    arms = simulated(design=DESIGNS[3], budgets=(1e17, 1e18), seeds=2)
    grouped = [
        replace(arm, runs=replace(arm.runs, group=np.array([f"{arm.name}{seed}" for seed in arm.runs.seed])))
        for arm in arms
    ]

    with pytest.raises(FitError, match=r"2 independent units .* too few") as refused:
        judged(grouped)
    assert "baseline and variant" in refused.value.where


def test_a_law_that_misses_design_points_is_drawn_by_them(simulated):
    baseline, variant = simulated(noise=0.0005)
    bent = variant.runs.L * (1 + 0.02 * np.cos(3 * np.log(variant.runs.C)))
    found = judged([baseline, replace(variant, runs=replace(variant.runs, L=bent))]).pairs[0]

    assert found.pair.errors.whole_cells
    assert any("does not describe the runs" in text for text in found.warnings)
