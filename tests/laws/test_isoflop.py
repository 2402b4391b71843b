"""Slices, minima and trends: known answers, known biases, and every refusal."""

import numpy as np
import pytest

from scalelab.errors import FitError
from scalelab.laws.base import Observations
from scalelab.laws.isoflop import IsoFlop, Slice
from scalelab.laws.trend import FloorLaw, PowerLaw


def one_slice(L, N=None, C=1e18):
    N = np.geomspace(1e7, 1e9, len(L)) if N is None else np.asarray(N, float)
    return Slice.of(Observations.of(N, C / (6 * N), L, flops_planned=np.full(len(L), C)), C, 1e3)


def test_finds_the_minima_of_a_measured_family(measured):
    """N* found independently from the same 24 runs by parabolas over five points."""
    fit = IsoFlop().fit(measured)

    assert [s.N for s in fit.minima] == pytest.approx([42e3, 76e3, 117e3, 189e3], rel=0.05)
    assert [s.L for s in fit.minima] == pytest.approx([4.203, 3.927, 3.634, 3.351], abs=0.005)
    assert fit.exponents["a"] == pytest.approx(0.447, abs=0.01)


@pytest.mark.parametrize(
    ("alpha", "beta", "factor", "error"),
    [
        (0.34, 0.28, 2, -0.33),
        (0.34, 0.28, 4, -1.30),
        (0.34, 0.28, 8, -2.90),
        (0.34, 0.28, 16, -5.10),
        (0.465, 0.155, 16, -23.12),
    ],
)
def test_the_parabola_has_the_published_bias(alpha, beta, factor, error):
    """Czech et al. 2026: error of D* in percent, 15 sizes centred on the true minimum."""
    w = np.log(np.geomspace(1 / factor, factor, 15))
    # Around the minimum a Chinchilla surface has this shape at every budget.
    L = 2 + 0.5 * (np.exp(-alpha * w) / alpha + np.exp(beta * w) / beta)

    found = one_slice(L, N=1e8 * np.exp(w))

    assert pytest.approx(error, abs=0.01) == 100 * (found.D / (1e18 / 6e8) - 1)


def test_the_window_keeps_far_sizes_from_the_parabola(family):
    wide = family(sizes=15, factor=16)

    narrow, all_sizes = IsoFlop().fit(wide), IsoFlop(window=1e3).fit(wide)

    assert narrow.slices[0].window.chosen.sum() == 7
    assert all_sizes.slices[0].window.chosen.sum() == 15


def test_the_window_holds_five_sizes_where_the_grid_is_coarse(family):
    fit = IsoFlop(window=2.0).fit(family(sizes=7, factor=27))

    assert [s.window.chosen.sum() for s in fit.slices] == [5] * 5


def test_recovers_the_allocation_that_made_the_runs(family, truth):
    fit = IsoFlop().fit(family())
    C = 1e22
    N = (0.35 * 480 / (0.37 * 2100)) ** (1 / 0.72) * (C / 6) ** (0.37 / 0.72)
    L = 1.8 + 480 / N**0.35 + 2100 / (C / 6 / N) ** 0.37

    best = fit.optimum(C)

    assert fit.exponents["a"] == pytest.approx(0.37 / 0.72, abs=1e-4)
    assert pytest.approx(N, rel=0.01) == best.N  # the parabola's own bias
    assert pytest.approx(C / 6 / N, rel=0.01) == best.D
    assert fit.form == "floor"
    assert pytest.approx(L, rel=1e-3) == best.L


def test_tokens_follow_from_the_runs_own_flops(measured):
    """At a size that was run, D* is what that run would have seen of the whole budget."""
    s = IsoFlop().fit(measured).slices[0]
    i = np.searchsorted(s.runs.N, s.N)

    below, above = (s.flops / (s.runs.C / s.runs.D)[k] for k in (i - 1, i))

    assert above < s.D < below
    assert s.flops / (6 * s.N) * 0.95 > s.D  # attention is paid for


def test_seeds_are_points_and_the_best_size_is_their_mean():
    N = np.repeat([1.0, 2, 4, 8, 16], 2) * 1e7
    L = np.array([3.3, 3.3, 2.9, 3.3, 3.0, 3.0, 3.2, 3.2, 3.5, 3.5])  # one lucky seed at 2e7

    found = one_slice(L, N)

    assert found.window.centre == pytest.approx(np.log(4e7))
    assert found.window.chosen.sum() == 10


@pytest.mark.parametrize(
    ("L", "reason", "at_edge"),
    [
        ([3.0, 3.1, 3.2, 3.3, 3.4], "at the smallest size", True),
        ([3.4, 3.3, 3.2, 3.1, 3.0], "at the largest size", True),
        ([3.2, 3.6, 3.1, 3.6, 3.2], "opens downward", False),
        ([3.0, 3.1], "2 distinct sizes; a parabola needs 3", False),
    ],
)
def test_refuses_a_slice_without_an_interior_minimum(L, reason, at_edge):
    found = one_slice(np.array(L))

    assert reason in found.refused
    assert found.at_edge is at_edge
    assert np.isnan([found.N, found.D, found.L]).all()


def test_refuses_a_vertex_beyond_its_points():
    # Lowest just inside the right edge, but the parabola through all of it keeps falling.
    found = one_slice(np.array([5.0, 4.4, 3.9, 3.5, 3.25, 3.07, 2.95, 2.93, 2.932]))
    falling = one_slice(np.array([4.0, 3.83, 3.66, 3.5, 3.35, 3.2, 3.05, 2.9, 2.9001]))

    assert found.refused is None
    assert "outside the sizes" in falling.refused


def test_refuses_a_trend_through_one_minimum(family):
    runs = family(budgets=(1e18, 3e18))
    falling = runs.flops_planned == 3e18
    L = np.where(falling, 4 - 0.01 * np.arange(len(runs)), runs.L)

    with pytest.raises(FitError, match="1 of 2 budgets have an interior minimum") as caught:
        IsoFlop().fit(Observations.of(runs.N, runs.D, L, flops_planned=runs.flops_planned))

    assert "3e18 FLOPs: the lowest loss is at the largest size" in str(caught.value)
    assert len(caught.value.evidence) == 2


def test_refuses_runs_without_budgets(family):
    runs = family()

    with pytest.raises(FitError, match=r"no run says which isoFLOP budget"):
        IsoFlop().fit(Observations.of(runs.N, runs.D, runs.L))


def test_budgets_that_differ_in_the_last_digit_are_two(family):
    runs = family(budgets=(1e18, 3e18))
    planned = runs.flops_planned.copy()
    planned[0] *= 1 + 1e-12

    fit = IsoFlop().fit(Observations.of(runs.N, runs.D, runs.L, flops_planned=planned))

    assert len(fit.slices) == 3
    assert "1 of 3 budgets refused" in fit.warnings[0]


def test_two_minima_say_that_no_error_can_be_seen(family):
    fit = IsoFlop().fit(family(budgets=(1e18, 1e19)))

    assert any("fits them exactly" in w for w in fit.warnings)
    assert fit.trends.floor is None


def test_losses_that_fall_ever_faster_have_no_floor(measured):
    fit = IsoFlop().fit(measured)

    assert fit.form == "power"
    assert any("show no floor" in w for w in fit.warnings)
    assert set(fit.frontiers(4e13)) == {"power", "floor"}


def test_a_run_that_spent_another_budget_is_named(family):
    runs = family()
    C = runs.C.copy()
    C[3] *= 1.2

    fit = IsoFlop().fit(
        Observations.of(runs.N, runs.D, runs.L, C=C, flops_planned=runs.flops_planned)
    )

    assert "a run spent 20% more or less than the budget (budgets 1e18)" in fit.warnings


def test_trends_recover_what_made_them():
    C = np.geomspace(1e18, 1e21, 6)
    L = 1.7 + 0.9 * (C / 1e19) ** -0.18

    power, floor = PowerLaw.of(C, 3 * C[None] ** 0.5), FloorLaw.of(C, L[None])

    assert power.slope[0] == pytest.approx(0.5)
    assert power(1e24)[0] == pytest.approx(3e12)
    assert (floor.E[0], floor.gamma[0]) == pytest.approx((1.7, 0.18), rel=1e-5)
    assert floor(1e24)[0] == pytest.approx(1.7 + 0.9 * 1e5**-0.18, rel=1e-6)
    assert floor.is_floor[0]


def test_trends_pass_over_missing_minima():
    C = np.geomspace(1e18, 1e21, 6)
    y = np.stack([C**0.5, C**0.5])
    y[1, 2] = np.nan

    both = PowerLaw.of(C, y)

    assert both.slope == pytest.approx([0.5, 0.5])
    assert both.level[1] == pytest.approx(both.level[0])


def test_a_floor_passes_over_missing_minima():
    C = np.geomspace(1e18, 1e21, 6)
    L = 1.7 + 0.9 * (C / 1e19) ** np.full((2, 1), -0.18)
    L[1, 2] = np.nan

    floor = FloorLaw.of(C, L)

    assert pytest.approx([1.7, 1.7], rel=1e-5) == floor.E


def test_a_bend_below_zero_is_not_a_floor():
    C = np.geomspace(1e18, 1e21, 6)

    bend = FloorLaw.of(C, (-0.5 + 4 * (C / 1e19) ** -0.1)[None])

    assert bend.E[0] == pytest.approx(-0.5, abs=1e-3)
    assert not bend.at_bound[0]
    assert not bend.is_floor[0]


def test_refuses_a_parabola_that_dips_below_zero_loss():
    found = one_slice(np.array([3.0, 0.02, 0.01, 0.02, 3.0]))

    assert "below zero" in found.refused
