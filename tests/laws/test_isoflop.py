"""Slices, minima and trends: known answers, known biases, and every refusal."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.interpolate import Akima1DInterpolator

from scalelab.errors import FitError
from scalelab.laws.isoflop.law import IsoFlopLaw
from scalelab.laws.isoflop.slices import Slice
from scalelab.laws.isoflop.trend import FloorLaw, PowerLaw
from scalelab.laws.isoflop.valley import FitWindow, akima
from scalelab.laws.observations import Observations


def one_slice(L, N=None, C=1e18, shape="parabola", weight=None):
    N = np.geomspace(1e7, 1e9, len(L)) if N is None else np.asarray(N, float)
    runs = Observations.of(N, C / (6 * N), L, flops_planned=np.full(len(L), C), weight=weight)
    return Slice.of(runs, C, 1e3, shape)


def valley(w, alpha=0.34, beta=0.28):
    """Every isoFLOP slice of a Chinchilla surface has this shape around its minimum at w = 0."""
    return 2 + 0.5 * (np.exp(-alpha * w) / alpha + np.exp(beta * w) / beta)


def with_loss(runs, changes):
    """The runs with some losses multiplied."""
    L = runs.L.copy()
    for row, factor in changes.items():
        L[row] *= factor
    return replace(runs, L=L)


def test_finds_the_minima_of_a_measured_family(measured):
    """N* found independently from the same 24 runs by parabolas over five points."""
    fit = IsoFlopLaw().fit(measured)

    assert [s.N for s in fit.minima] == pytest.approx([42e3, 76e3, 117e3, 189e3], rel=0.05)
    assert [s.L for s in fit.minima] == pytest.approx([4.203, 3.927, 3.634, 3.351], abs=0.005)
    assert fit.exponents["a"] == pytest.approx(0.447, abs=0.01)


@pytest.mark.parametrize(
    ("alpha", "beta", "errors"),
    [(0.34, 0.28, (-0.33, -1.30, -2.90, -5.10)), (0.465, 0.155, (-1.67, -6.50, -13.91, -23.12))],
)
def test_the_parabola_has_the_published_bias(alpha, beta, errors):
    """Czech et al. 2026: error of D* in percent, 15 sizes centred, +-2, 4, 8, 16x."""
    for factor, error in zip((2, 4, 8, 16), errors, strict=True):
        w = np.log(np.geomspace(1 / factor, factor, 15))

        found = one_slice(valley(w, alpha, beta), N=1e8 * np.exp(w))

        assert pytest.approx(error, abs=0.01) == 100 * (found.D / (1e18 / 6e8) - 1)


def test_the_parabola_has_the_published_bias_off_centre():
    """The same, the grid centred at three times D*; at +-2x it does not reach N*."""
    for factor, error in zip((2, 4, 8, 16), (3.97, 3.47, 2.65, 1.51), strict=True):
        w = np.log(np.geomspace(1 / factor, factor, 15) / 3)
        window = FitWindow.around(1e8 * np.exp(w), 1e8 * np.exp(w[7]), 1e3)

        _, c1, c2 = window.coefficients(valley(w, 0.31, 0.31)[None])[0]

        D = np.exp(c1 / (2 * c2) - w[7])  # as a share of D*
        assert pytest.approx(error, abs=0.01) == 100 * (D - 1)
        if factor > 2:
            found = one_slice(valley(w, 0.31, 0.31), N=1e8 * np.exp(w))
            assert pytest.approx(D, rel=1e-9) == found.D / (1e18 / 6e8)


@pytest.mark.parametrize(("factor", "residual"), [(4, 1e-4), (16, 1.6e-3)])
def test_the_cubic_leaves_a_residual_far_below_the_parabolas_bias(factor, residual):
    w = np.log(np.geomspace(1 / factor, factor, 15))

    found = one_slice(valley(w), N=1e8 * np.exp(w), shape="cubic")

    assert abs(np.log(found.N / 1e8)) == pytest.approx(residual, rel=0.35)


def test_akima_finds_an_asymmetric_minimum_off_its_knots():
    w = np.log(1.1 * np.geomspace(1 / 8, 8, 15))

    found = one_slice(valley(w, 0.465, 0.155), N=1e8 * np.exp(w), shape="akima")

    assert pytest.approx(1e8, rel=0.01) == found.N  # the parabola is off by 14%
    assert pytest.approx(valley(0.0, 0.465, 0.155), rel=1e-4) == found.L


@pytest.mark.parametrize("points", [3, 4, 5, 9])
def test_akimas_pieces_are_those_of_scipy(points):
    rng = np.random.default_rng(points)
    x = np.sort(rng.random(points))
    random, steps = rng.standard_normal((points, 7)), np.round(rng.standard_normal((points, 7)))
    for y in (random, steps, 3 * x[:, None] + 1):  # noise; stretches on which nothing turns; a line
        assert np.allclose(akima(x, y), Akima1DInterpolator(x, y).c, rtol=1e-9, atol=1e-9)


def test_akima_goes_through_the_lowest_point_of_scipys_curve():
    rng = np.random.default_rng(0)
    N = np.geomspace(1e7, 1e9, 9)
    for _ in range(20):
        L = valley(np.log(N / 1e8)) * np.exp(0.003 * rng.standard_normal(9))
        fine = np.linspace(np.log(N[0]), np.log(N[-1]), 20001)
        curve = Akima1DInterpolator(np.log(N), np.log(L))(fine)
        found = one_slice(L, N, shape="akima")
        if found.refused is None:
            assert np.log(found.N) == pytest.approx(fine[curve.argmin()], abs=5e-4)


@pytest.mark.parametrize("shape", ["parabola", "cubic", "akima"])
def test_every_shape_refuses_a_slope(shape):
    found = one_slice(np.array([3.4, 3.3, 3.22, 3.15, 3.1, 3.06]), shape=shape)

    assert "at the largest size" in found.refused
    assert found.at_edge


def test_shapes_say_how_many_sizes_they_need():
    L = np.array([3.1, 3.0, 3.1])

    assert "a cubic needs 4" in one_slice(L, shape="cubic").refused
    assert "an Akima curve needs 5" in one_slice(L, shape="akima").refused
    assert one_slice(L).refused is None


def test_refuses_an_unknown_shape_and_an_empty_window():
    with pytest.raises(FitError, match="unknown shape of a valley 'quartic'"):
        IsoFlopLaw(shape="quartic")
    with pytest.raises(FitError, match="a window of 1 holds no sizes"):
        IsoFlopLaw(window=1)


def test_variants_are_the_other_shapes_and_windows():
    assert IsoFlopLaw().variants() == {
        "cubic": IsoFlopLaw(shape="cubic"),
        "window 2.5x": IsoFlopLaw(window=2.5),
        "window 8x": IsoFlopLaw(window=8.0),
    }
    assert "cubic" not in IsoFlopLaw(shape="cubic").variants()


def test_the_other_shapes_stand_beside_the_parabola():
    w = np.log(np.geomspace(1 / 8, 8, 15))

    told = one_slice(valley(w, 0.465, 0.155), N=1e8 * np.exp(w)).to_json()["cross_check"]

    assert told["parabola_bias"] == pytest.approx(1 / (1 - 0.1391) - 1, abs=0.02)
    assert (told["cubic"], told["akima"]) == pytest.approx((1e8, 1e8), rel=0.02)


def test_a_cross_check_that_cannot_be_made_is_null():
    told = one_slice(np.array([3.1, 3.0, 3.1])).to_json()["cross_check"]

    assert told == {"cubic": None, "akima": None, "parabola_bias": None}


def test_shapes_that_disagree_are_told(family):
    """Bias of 14%, and of 3% that noise does not explain; below 2% nobody needs to know."""
    w = np.log(np.geomspace(1 / 8, 8, 15))

    large = one_slice(valley(w, 0.465, 0.155), N=1e8 * np.exp(w))
    small = one_slice(valley(w), N=1e8 * np.exp(w))

    assert any("moves N* by more than 10%" in warning for warning in large.warnings)
    assert any("moves N* more than noise explains" in warning for warning in small.warnings)
    assert not any("moves N*" in warning for warning in IsoFlopLaw().fit(family()).warnings)


def test_a_curvature_that_could_be_zero_is_told_and_stays():
    """The interval covers zero where noise hides the valley; known from the covariance of X."""
    w = np.log(np.geomspace(1 / 2, 2, 9))
    zigzag = np.array([0, 1, -1, 1, -2, 1, -1, 1, 0])
    clear, hidden = (one_slice(valley(w) + sd * zigzag, N=1e8 * np.exp(w)) for sd in (0.001, 0.05))
    X = np.vander(w, 3, increasing=True)
    error = clear.noise[0] * clear.L * np.sqrt(np.linalg.inv(X.T @ X)[2, 2])

    low, high = clear.curvature_interval

    assert (high - low) / 2 == pytest.approx(2.4469 * error, rel=1e-3)  # t, 6 to spare, 95%
    assert low < 0.5 * (0.34 + 0.28) / 2 < high
    assert hidden.refused is None
    assert hidden.curvature_interval[0] < 0
    assert any("curvature interval contains zero" in warning for warning in hidden.warnings)


@pytest.mark.parametrize("factor", [2, 1.1, 0.9])
def test_one_ruined_run_barely_moves_a_minimum(family, factor):
    runs = family(noise=0.002)
    clean = IsoFlopLaw().fit(runs)
    for row in range(7, 14) if factor == 2 else range(8, 13):  # all but the ends of a slice
        ruined = IsoFlopLaw().fit(with_loss(runs, {row: factor}))

        assert ruined.slices[1].ruined == (f"row {row}",)
        assert pytest.approx(clean.slices[1].N, rel=0.15) == ruined.slices[1].N
        assert pytest.approx(clean.slices[1].L, rel=0.003) == ruined.slices[1].L
        assert [s.ruined for s in ruined.slices if s.flops != 3e18] == [()] * 4


def test_a_ruined_run_is_named_with_its_miss_and_shapes_no_replicate(family):
    runs = family(noise=0.002)

    fit = IsoFlopLaw().fit(with_loss(runs, {10: 2}))

    (warning,) = (w for w in fit.warnings if "row 10" in w)
    assert warning.startswith("run row 10 is off the valley of its slice by +99.")
    assert fit.slices[1].to_json()["ruined"] == ["row 10"]
    assert fit.noise[0] < 0.02
    spread = np.nanstd(np.log(fit.drawn(300, 0)[1]), axis=0)
    assert spread[1] < 3 * spread[0]


def test_two_runs_of_a_slice_can_be_ruined(family):
    fit = IsoFlopLaw().fit(with_loss(family(sizes=9, noise=0.001), {11: 2, 14: 1.5}))

    assert fit.slices[1].ruined == ("row 11", "row 14")


def test_four_sizes_cannot_tell_a_ruined_run(family):
    for row in range(4, 8):
        runs = with_loss(family(sizes=4, noise=0.001), {row: 1.3})

        assert all(s.ruined == () for s in IsoFlopLaw()._slices(runs))


TRUTHS = {
    "asymmetric": {"E": 1.7, "A": 1500.0, "B": 400.0, "alpha": 0.465, "beta": 0.155},
    "mirrored": {"E": 1.7, "A": 30.0, "B": 60000.0, "alpha": 0.155, "beta": 0.465},
    "published": {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28},
    "steep": {"E": 0.5, "A": 4000.0, "B": 40000.0, "alpha": 0.5, "beta": 0.55},
}


@pytest.mark.parametrize("noise", [0, 0.001])
@pytest.mark.parametrize("factor", [2, 4, 8, 16])
def test_no_run_of_a_wide_clean_valley_is_called_ruined(family, factor, noise):
    for truth in TRUTHS.values():
        for sizes, drift in ((5, 0), (7, 1), (9, 0.5), (15, 0.3)):
            runs = family(sizes=sizes, factor=factor, noise=noise, drift=drift, truth=truth)
            assert [s.ruined for s in IsoFlopLaw()._slices(runs)] == [()] * 5


@pytest.mark.parametrize("sizes", [5, 9])
@pytest.mark.parametrize("factor", [4, 16])
def test_no_run_of_a_valley_of_kaplans_form_is_called_ruined(factor, sizes):
    C, w = np.meshgrid([1e13, 1e14, 1e15], np.log(np.geomspace(1 / factor, factor, sizes)))
    N = (1.2e6 * (C / 1e14) ** 0.575 * np.exp(w)).ravel()
    D = C.ravel() / 6 / N
    L = ((6.4e13 / N) ** (0.076 / 0.103) + 1.8e13 / D) ** 0.103

    for seed in range(10):
        noisy = L * np.exp(0.001 * np.random.default_rng(seed).standard_normal(L.size))
        found = IsoFlopLaw()._slices(Observations.of(N, D, noisy, flops_planned=C.ravel()))
        assert [s.ruined for s in found] == [()] * 3
        assert found[1].refused is None


@pytest.mark.parametrize("shape", ["parabola", "cubic", "akima"])
def test_a_weight_of_two_is_the_run_given_twice(shape):
    rng = np.random.default_rng(0)
    N = 1e8 * np.repeat(np.geomspace(1 / 4, 4, 7), 2)
    L = valley(np.log(N / 1e8)) + 0.01 * rng.standard_normal(14)
    twice = np.append(np.arange(14), [4, 9])

    weighted = one_slice(L, N, shape=shape, weight=np.bincount(twice).astype(float))
    doubled = one_slice(L[twice], N[twice], shape=shape)
    neither = one_slice(L, N, shape=shape)

    assert pytest.approx((doubled.N, doubled.L), rel=1e-12) == (weighted.N, weighted.L)
    assert pytest.approx(neither.N, rel=1e-6) != weighted.N


def test_minima_lie_at_the_compute_that_the_runs_spent(family):
    """Budgets planned in one count of FLOPs and read in another: C = 6 N D of a smaller N."""
    runs = family()
    part = 1 / (1 + (1e8 / runs.N) ** 0.5)  # of the parameters, without embeddings
    other = Observations.of(runs.N * part, runs.D, runs.L, flops_planned=runs.flops_planned)

    fit = IsoFlopLaw().fit(other)

    for s in fit.minima:
        assert pytest.approx(s.spent, rel=0.01) == 6 * s.N * s.D
        assert s.spent < 0.9 * s.flops
        told = s.to_json()
        assert (told["flops"], told["flops_spent"]) == (s.flops, s.spent)
    assert fit.evidence_end == fit.minima[-1].spent
    best = fit.optimum(1e19)
    assert float(best.N[0] * best.D[0]) == pytest.approx(1e19 / 6, rel=0.02)
    C, N, D, _ = fit.drawn(20, 0)
    np.testing.assert_allclose(6 * N * D, C, rtol=0.02)


def test_minima_lie_at_the_budget_where_runs_kept_to_it(family):
    assert [s.spent for s in IsoFlopLaw().fit(family()).minima] == [1e18, 3e18, 1e19, 3e19, 1e20]


def test_the_window_keeps_far_sizes_from_the_parabola(family):
    wide = family(sizes=15, factor=16)

    narrow, all_sizes = IsoFlopLaw().fit(wide), IsoFlopLaw(window=1e3).fit(wide)

    assert narrow.slices[0].window.chosen.sum() == 7
    assert all_sizes.slices[0].window.chosen.sum() == 15


def test_the_window_holds_five_sizes_where_the_grid_is_coarse(family):
    fit = IsoFlopLaw(window=2.0).fit(family(sizes=7, factor=27))

    assert [s.window.chosen.sum() for s in fit.slices] == [5] * 5


def test_recovers_the_allocation_that_made_the_runs(family, truth):
    fit = IsoFlopLaw().fit(family())
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
    s = IsoFlopLaw().fit(measured).slices[0]
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
    falling = one_slice(np.array([4.0, 3.92, 3.84, 3.76, 3.68, 3.6, 3.53, 3.46, 3.461]))

    assert found.refused is None
    assert "outside the sizes" in falling.refused


def test_refuses_a_trend_through_one_minimum(family):
    runs = family(budgets=(1e18, 3e18))
    falling = runs.flops_planned == 3e18
    L = np.where(falling, 4 - 0.01 * np.arange(len(runs)), runs.L)

    with pytest.raises(FitError, match="1 of 2 budgets have an interior minimum") as caught:
        IsoFlopLaw().fit(Observations.of(runs.N, runs.D, L, flops_planned=runs.flops_planned))

    assert "3e18 FLOPs: the lowest loss is at the largest size" in str(caught.value)
    assert len(caught.value.evidence) == 2


def test_refuses_runs_without_budgets(family):
    runs = family()

    with pytest.raises(FitError, match=r"no run says which isoFLOP budget"):
        IsoFlopLaw().fit(Observations.of(runs.N, runs.D, runs.L))


def test_budgets_that_differ_in_the_last_digit_are_two(family):
    runs = family(budgets=(1e18, 3e18))
    planned = runs.flops_planned.copy()
    planned[0] *= 1 + 1e-12

    fit = IsoFlopLaw().fit(Observations.of(runs.N, runs.D, runs.L, flops_planned=planned))

    assert len(fit.slices) == 3
    assert any("1 of 3 budgets refused" in warning for warning in fit.warnings)


def test_two_minima_say_that_no_error_can_be_seen(family):
    fit = IsoFlopLaw().fit(family(budgets=(1e18, 1e19)))

    assert any("fits them exactly" in w for w in fit.warnings)
    assert fit.trends.floor is None


def test_losses_that_fall_ever_faster_have_no_floor(measured):
    fit = IsoFlopLaw().fit(measured)

    assert fit.form == "power"
    assert any("show no floor" in w for w in fit.warnings)
    assert set(fit.frontiers(4e13)) == {"power", "floor"}


def test_a_run_that_spent_another_budget_is_named(family):
    runs = family()
    C = runs.C.copy()
    C[3] *= 1.2

    fit = IsoFlopLaw().fit(Observations.of(runs.N, runs.D, runs.L, C=C, flops_planned=runs.flops_planned))

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


def test_levels_stand_at_the_compute_that_was_asked_for():
    C = np.geomspace(1e18, 1e21, 6)

    power = PowerLaw.of(C, C[None] ** 0.5, 1e20)
    floor = FloorLaw.of(C, 1.7 + 0.9 * (C[None] / 1e20) ** -0.18, 1e20)

    assert (power.C0, power.level[0]) == pytest.approx((1e20, 1e10))
    assert (floor.C0, floor.K[0]) == pytest.approx((1e20, 0.9), rel=1e-4)


def test_noise_is_pooled_over_the_slices(family):
    fit = IsoFlopLaw().fit(family(noise=0.004))

    square = sum(np.sum(((s.runs.L - s.fitted) / s.L) ** 2) for s in fit.minima)

    assert fit.noise == pytest.approx((np.sqrt(square / 20), 20))
    assert all(s.noise == fit.noise for s in fit.slices)


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
