"""Profile likelihood: the closed form where there is one, its level, and open ends."""

import numpy as np
import pytest
from scipy.stats import f as f_quantile

from scalelab.laws.forms.chinchilla import Chinchilla
from scalelab.laws.observations import Observations
from scalelab.laws.uncertainty.profile_likelihood import profile


def slope(constants):
    return constants["beta"] / (constants["alpha"] + constants["beta"])


def test_squares_have_the_region_of_least_squares(family):
    """Nearly linear at .05% noise: beyond an end the residual sum has grown by F / (n - p)."""
    fit = Chinchilla("squares").fit(family(noise=0.0005))

    low, high = profile(fit, lambda c: c["E"], 0.9)

    best = fit.params["E"]
    residual = (fit.expected(fit.runs) - fit.runs.L)[None]
    J = fit.surface.at(fit.theta[None])[1][0]
    sd = np.sqrt(np.sum(residual**2) / (35 - 5) * np.linalg.inv(J @ J.T)[0, 0])
    reach = np.sqrt(f_quantile.ppf(0.9, 1, 30)) * sd
    assert high - low == pytest.approx(2 * reach, rel=0.05)
    assert low < best < high


def test_it_agrees_with_the_bootstrap_within_a_factor(family):
    fit = Chinchilla().fit(family(noise=0.003, seed=2))

    low, high = profile(fit, slope, 0.9)
    drawn = np.quantile(fit.replicates(1000, 0).values["a"], [0.05, 0.95])

    assert 0.6 < (high - low) / np.ptp(drawn) < 1.6


def test_higher_levels_reach_further(family):
    fit = Chinchilla().fit(family(noise=0.003))

    narrow, wide = (profile(fit, slope, level) for level in (0.5, 0.95))

    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_an_end_that_the_runs_leave_open_is_none():
    """Losses with hardly a floor, 2% noise: E may well be zero."""
    rng = np.random.default_rng(1)
    N, D = (a.ravel() for a in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 5)))
    L = (0.3 + 12 / N**0.1 + 10 / D**0.1) * np.exp(0.02 * rng.standard_normal(N.size))

    low, high = profile(Chinchilla().fit(Observations.of(N, D, L)), lambda c: c["E"], 0.9)

    assert low is None
    assert high is None or high > 0.3


def test_every_constant_and_the_optimum_are_profiled(family):
    fit = Chinchilla().fit(family(noise=0.003))

    found = fit.profiles(1e21, 0.9)

    assert set(found) == {*("E", "A", "B", "alpha", "beta", "a", "b"), *("n_params", "n_tokens", "loss")}
    best = fit.optimum(1e21)
    assert found["n_params"][0] < best.N < found["n_params"][1]
    assert found["loss"][0] < best.L < found["loss"][1]


def test_a_perfect_fit_has_no_region(family):
    assert Chinchilla().fit(family()).profiles(1e21, 0.9) is None
