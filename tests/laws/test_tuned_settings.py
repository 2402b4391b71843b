"""The best settings of a cell, and the rule through those of several."""

import numpy as np
import pytest

from scalelab.laws import tuned_settings
from scalelab.laws.tuned_settings import SettingsOptimum, optimum_of, rule_of, runs_needed

LRS = np.log(np.geomspace(0.25, 4, 12))
N, D = (v.ravel() for v in np.meshgrid([2e4, 6e4], [4e5, 1.6e6], indexing="ij"))


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch):
    monkeypatch.setattr(tuned_settings, "DRAWS", 24)


def cell(centre, noise=0.0, seed=0, x=LRS, curvature=0.05):
    """Losses of rates whose best is at a place."""
    each = noise * np.random.default_rng(seed).standard_normal(len(x))
    return x[:, None], 3.5 * np.exp(curvature * (x - centre) ** 2 / 2 + each)


def test_the_lowest_point_between_the_values_tried_is_found():
    found = optimum_of(*cell(0.23), ("lr",))

    assert isinstance(found, SettingsOptimum)
    assert found.place[0] == pytest.approx(0.23, abs=1e-6)
    assert found.loss == pytest.approx(3.5, rel=1e-9)
    assert found.no_optimum == 0


def test_intervals_hold_the_truth_about_as_often_as_they_say_and_grow_with_the_noise():
    hits, widths = 0, []
    for seed in range(8):
        found = optimum_of(*cell(0.1, 0.004, seed, curvature=0.1), ("lr",), seed)
        low, high = found.interval(0)
        hits += low <= 0.1 <= high
        widths.append(high - low)
    wider = optimum_of(*cell(0.1, 0.006, 0, curvature=0.1), ("lr",), 0).interval(0)

    assert hits >= 4  # of 8 at 80%: fewer in 1 of 100
    assert wider[1] - wider[0] > widths[0]
    assert 0.02 < np.median(widths) < 0.4


def test_two_settings_have_a_surface_together():
    a, b = (v.ravel() for v in np.meshgrid(np.linspace(-1, 1, 4), np.linspace(-1, 1, 4)))
    loss = 3 * np.exp(0.03 * (a - 0.2) ** 2 + 0.02 * (b + 0.1) ** 2 + 0.02 * (a - 0.2) * (b + 0.1))

    found = optimum_of(np.stack([a, b], axis=1), loss, ("lr", "batch"))

    np.testing.assert_allclose(found.place, [0.2, -0.1], atol=1e-6)
    assert runs_needed(1) == 8
    assert runs_needed(2) == 9


@pytest.mark.parametrize(
    ("x", "loss", "why"),
    [
        (*cell(2.5), "at an end of the values tried"),
        (*cell(1.15, 0.004, 3), "^[1-9][0-9]% of the draws have no lowest point between the values tried"),
        (*cell(0.0, x=LRS[:5]), "5 settings were tried, and a surface needs 8"),
        (LRS[:, None], 3.5 * np.exp(-0.05 * LRS**2), "does not rise on all sides"),
    ],
)
def test_no_optimum_is_given_where_the_runs_show_none(x, loss, why):
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(optimum_of(x, loss, ("lr",)))


def fitted(c, a, b, errors, shift=(0, 0, 0, 0), which=slice(None)):
    truth = np.log(c) + a * np.log(N) + b * np.log(D) + np.asarray(shift)
    noise = np.random.default_rng(0).standard_normal((4, 200))
    draws = list(truth[:, None] + np.array(errors)[:, None] * noise)
    return rule_of(N[which], D[which], truth[which], draws[which], True)


def test_the_rule_that_made_the_optima_is_found_and_read_beyond_them():
    rule = fitted(1.8, -0.7, 0.3, [0.05] * 4)

    np.testing.assert_allclose(rule.constants, [np.log(1.8), -0.7, 0.3], atol=1e-6)
    assert rule.at(2.4e5, 1.6e6) == pytest.approx(1.8 * 2.4e5**-0.7 * 1.6e6**0.3)
    assert rule.is_power
    assert (rule.n_cells, rule.spare) == (4, 1)
    assert rule.chi2 == pytest.approx(0, abs=1e-9)


def test_intervals_of_the_rule_are_those_of_the_regression_and_widen_beyond_the_cells():
    rule = fitted(1.8, -0.7, 0.3, [0.05] * 4)
    half = np.diff(rule.interval(1))[0] / 2 / 1.2816

    # Of a 2 x 2 design: se(a) = e / (sqrt(4) * half the distance in ln N)
    assert half == pytest.approx(0.05 / (2 * np.log(3) / 2), rel=0.2)
    ends = [np.log(np.divide(*rule.interval_at(n, 8e5)[::-1])) for n in (3.5e4, 2.4e5)]
    assert ends[1] > 2 * ends[0]


def test_cells_that_scatter_more_than_their_errors_widen_the_intervals():
    calm, rough = fitted(1, 0, 0, [0.05] * 4), fitted(1, 0, 0, [0.05] * 4, shift=(0.3, -0.3, -0.3, 0.3))

    assert rough.chi2 == pytest.approx(4 * (0.3 / 0.05) ** 2, rel=0.3)
    assert np.diff(rough.interval(1)) > 6 * np.diff(calm.interval(1))


def test_a_well_known_cell_counts_more():
    rule = fitted(1, 0, 0, [0.01, 0.01, 0.01, 0.5], shift=(0, 0, 0, 1.0))

    assert abs(rule.constants[1]) < 0.02


@pytest.mark.parametrize(
    ("which", "why"),
    [
        (slice(0, 2), "2 cells have an optimum, and a power of N and D has 3 constants"),
        (slice(0, 1), "1 cells have an optimum"),
    ],
)
def test_fewer_cells_than_constants_give_a_constant(which, why):
    rule = fitted(0.01, 0, 0, [0.05] * 4, which=which)

    assert not rule.is_power
    assert why in rule.why_constant
    assert rule.at(1e9, 1e9) == rule.at(2e4, 4e5)
    assert rule.interval_at(1e9, 1e9)[0] < rule.at(1e9, 1e9) < rule.interval_at(1e9, 1e9)[1]


def test_cells_that_contradict_one_value_give_no_rule():
    found = fitted(0.01, -0.5, 0.2, [0.05] * 4, which=slice(0, 2))

    assert "no one value is right for the 2 cells" in found


def test_cells_along_a_line_and_settings_without_a_logarithm_give_a_constant():
    along = np.array([1e4, 2e4, 4e4])
    draws = [np.random.default_rng(k).normal(0, 0.1, 100) for k in range(3)]

    line = rule_of(along, 20 * along, np.zeros(3), draws, True)
    plain = rule_of(N[:3], D[:3], np.zeros(3), draws, False)

    assert "do not vary N and D separately" in line.why_constant
    assert "log: false" in plain.why_constant
    assert plain.at(1, 1) == pytest.approx(0, abs=1e-9)
    assert (
        rule_of(along[:0], along[:0], np.zeros(0), [], True)
        == "no cell has an optimum between the values tried"
    )
