"""Ends of intervals, what counts as failed, and how noise becomes an interval: by hand."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from scalelab.laws.base import Replicates
from scalelab.laws.isoflop.law import IsoFlopLaw
from scalelab.laws.observations import Observations
from scalelab.laws.uncertainty.bootstrap import percentile, trusted
from scalelab.laws.uncertainty.model_uncertainty import CandidateFit, _miss, _refuted
from scalelab.laws.uncertainty.resampling_units import resampling_units
from scalelab.study.forecast import CHOICE, NOISE, Forecast, SeedNoise
from scalelab.study.holdout import HoldOut, HoldoutTrial


@pytest.mark.parametrize(
    ("level", "low", "high"), [(0.9, 50, 950), (0.8, 100, 900), (0.5, 250, 750), (0.95, 25, 975)]
)
def test_an_interval_leaves_out_as_much_on_either_side(level, low, high):
    assert percentile(np.arange(1001.0), level) == pytest.approx([low, high])


@pytest.mark.parametrize(("level", "least"), [(0.8, 100), (0.9, 200), (0.95, 400), (0.99, 2000)])
def test_ten_replicates_lie_beyond_each_end(level, least):
    assert percentile(np.arange(float(least)), level) is not None
    assert percentile(np.arange(float(least - 1)), level) is None


@pytest.mark.parametrize(("failed", "missing", "is_given"), [(15, 5, True), (15, 6, False)])
def test_replicates_that_failed_anywhere_count_as_failed(failed, missing, is_given):
    """Of 100 asked for, a fifth may fail: those without a fit and those without this quantity."""
    values = np.arange(100.0 - failed)
    values[:missing] = np.nan

    found = trusted(Replicates(100, failed, "run", {}, None), values, 0.5)

    assert (found is not None) == is_given


def test_runs_are_drawn_with_replacement():
    """Of 50 runs in a budget 49 are drawn, so each is missed with (1 - 1/50)^49 = .372; 400 draws leave
    a standard error below .003. The variance of a mean is then that of 50 runs, without the 1 / 50 that a
    draw of all would lack.
    """
    N = np.geomspace(1e6, 1e8, 50)
    runs = Observations.of(N, 1e18 / 6 / N, np.full(50, 3.0), flops_planned=np.full(50, 1e18))

    counts = resampling_units(runs).counts(0)(0, 400)

    np.testing.assert_allclose(counts.sum(axis=1), 50)
    assert np.mean(counts == 0) == pytest.approx((1 - 1 / 50) ** 49, abs=0.012)
    assert counts.var() == pytest.approx(1, rel=0.05)  # (50 / 49)^2 of a binomial of 49


# What the choice of law owes.


class Guess:
    """A fit that is off by so much in ln L of each run."""

    broken = ()

    def __init__(self, misses):
        self.misses = np.array(misses)

    def expected(self, runs):
        return runs.L * np.exp(self.misses)


def test_a_miss_is_in_ln_l_without_its_worst_tenth():
    """Nine misses of 2% and one of 500%, at losses from 1 to 10."""
    N = np.geomspace(1e6, 1e9, 10)
    runs = Observations.of(N, N * 20, np.arange(1.0, 11.0))

    assert _miss(Guess([0.02] * 9 + [5.0]), runs) == pytest.approx(0.02)


def test_a_law_that_misses_twice_as_far_as_the_best_is_refuted():
    fit = Guess([0.0])

    assert _refuted(fit, 0.0199, 0.01) is None
    assert "error on the runs is 2.0x that of the best surface" in _refuted(fit, 0.0201, 0.01)
    assert _refuted(SimpleNamespace(broken=("hangs at a bound",)), 0.01, 0.01) == "hangs at a bound"


@pytest.fixture
def forecast():
    """Noise says 2.0 to 2.4; laws that count say 1.9 and 2.1, a refuted one 9."""
    members = (
        CandidateFit("one", "law", {"loss": 2.1}, None),
        CandidateFit("two", "law", {"loss": 1.9}, None),
        CandidateFit("three", "law", {"loss": 9.0}, "error on the runs"),
    )
    return Forecast(1e21, "one", {"loss": 2.1}, {"loss": [2.0, 2.4]}, members, 10.0)


def test_the_farther_of_noise_and_laws_is_quoted_at_each_end(forecast):
    assert forecast.structural == {"loss": [1.9, 2.1]}
    assert forecast.intervals == {"loss": [1.9, 2.4]}


def test_the_wider_of_the_two_dominates(forecast):
    """Ln 2.4 / 2.0 = .18 against ln 2.1 / 1.9 = .10."""
    assert forecast.dominates == {"loss": NOISE}
    narrow = Forecast(1e21, "one", {}, {"loss": [2.05, 2.15]}, forecast.members, 10.0)
    assert narrow.dominates == {"loss": CHOICE}


def test_no_interval_is_quoted_where_the_noise_is_unknown(forecast):
    silent = Forecast(1e21, "one", {}, {"loss": None}, forecast.members, 10.0)

    assert silent.intervals == {"loss": None}


def test_seed_noise_is_pooled_over_repeated_points():
    """Squares .01 + .01 and .01 + 0 + .01 over 1 + 2 degrees of freedom; one run was alone."""
    N = np.array([1e6, 1e6, 2e6, 2e6, 2e6, 4e6])
    L = np.array([2.0, 2.2, 3.0, 3.1, 3.2, 9.0])

    noise = SeedNoise.of(Observations.of(N, N * 20, L))

    assert (noise.sd, noise.dof) == (pytest.approx(math.sqrt(0.04 / 3)), 3)


# From the residual of a slice to the interval of its minimum.


def test_the_spread_of_a_minimum_is_that_of_a_parabolas_vertex():
    """Of w* = -c1 / (2 c2) with sd(c1) = sigma L / sqrt(sum of w^2), and sigma drawn from its own
    chi-square, which widens it by sqrt(k / (k - 2)) at k degrees of freedom. 20,000 replicates
    know a standard deviation to .5%; the vertex is not quite linear in the noise.
    """
    w = np.linspace(-1, 1, 9) * np.log(3)
    rng = np.random.default_rng(0)
    parts = []
    for C in (1e18, 1e19, 1e20):
        best = 1e8 * (C / 1e19) ** 0.5
        L = 3 * (1 + 0.05 * w**2) * np.exp(1e-4 * rng.standard_normal(9))
        N = best * np.exp(w)
        parts.append((N, C / 6 / N, L, np.full(9, C)))
    N, D, L, planned = (np.concatenate(column) for column in zip(*parts, strict=True))
    fit = IsoFlopLaw().fit(Observations.of(N, D, L, flops_planned=planned))

    _, minima, _, _ = fit.drawn(20_000, 0)

    sigma, spare = fit.noise
    assert spare == 3 * (9 - 3)
    assert sigma == pytest.approx(1e-4, rel=0.5)  # 18 degrees of freedom
    wanted = sigma * 3 / (2 * 3 * 0.05 * math.sqrt(np.sum(w**2))) * math.sqrt(18 / 16)
    for k in range(3):
        assert np.log(minima[:, k]).std() == pytest.approx(wanted, rel=0.03)


# The hold-out.


def test_the_error_to_expect_grows_with_the_logarithm_of_the_reach():
    """.03 at e and .04 at e^2: c = sqrt((.0009 + .0016) / (1 + 4)) a factor e."""
    trials = tuple(
        HoldoutTrial("law", 1.0, math.exp(k), 10, 5, error, None, None) for k, error in ((1, 0.03), (2, 0.04))
    )
    tested = HoldOut("the rest", trials, {})

    c = math.sqrt(0.0025 / 5)
    assert tested.growth("law") == pytest.approx(c)
    assert tested.expected_error("law", math.exp(3)) == pytest.approx(3 * c)
    assert tested.expected_error("law", 0.5) == 0
    assert tested.trusted_fold("law") == pytest.approx(math.exp(0.01 / c))
