"""The allocation: published optima, closed forms of the waste, what stays unknown."""

import json

import numpy as np
import pytest

from scalelab.errors import PlanError
from scalelab.laws.uncertainty.bootstrap import percentile
from scalelab.plan.choose.allocate import MULTIPLES, allocate, expected
from scalelab.study.study import study


@pytest.fixture(scope="module")
def plan(slices):
    return allocate(slices)


def closed_waste(k, alpha, beta):
    """On a Chinchilla surface with C = 6 N D, whatever its constants E, A, B and whatever C."""
    ratio = (k**-alpha / alpha + k**beta / beta) / (1 / alpha + 1 / beta)
    return 1 - ratio ** (-(alpha + beta) / (alpha * beta))


def test_the_optimum_of_gophers_compute_on_the_public_points(hoffmann):
    """Besiroglu et al. 2024 and the intervals recomputed from their data."""
    plan = allocate(hoffmann)

    assert plan.law == "chinchilla"
    assert plan.tokens_per_param == pytest.approx(17.9, rel=0.01)
    assert plan.statistical["tokens_per_param"] == pytest.approx([9.8, 28.9], rel=0.06)
    drawn = hoffmann.replicates["chinchilla"].optimum(5.76e23)
    assert percentile(drawn.N, 0.95) == pytest.approx([53e9, 113e9], rel=0.06)


def test_the_published_waste_of_half_and_twice_the_size(hoffmann):
    waste = allocate(hoffmann).to_json()["regret"]

    assert waste["0.5"] == pytest.approx(0.156, abs=0.003)
    assert waste["2"] == pytest.approx(0.157, abs=0.003)
    assert waste["1.25"] == pytest.approx(0.018, abs=0.003)
    assert waste["1.5"] == pytest.approx(0.057, abs=0.003)
    assert waste["3"] == pytest.approx(0.34, abs=0.01)


def test_on_a_surface_the_waste_is_the_closed_form(known):
    plan = allocate(known)
    k = np.array(MULTIPLES)

    np.testing.assert_allclose(plan.valley.wasted(k), closed_waste(k, 0.35, 0.37), atol=1e-6)


def test_the_waste_is_nothing_at_the_best_size_and_grows_away_from_it(plan):
    for valley in plan.valleys:
        waste = valley.wasted(np.array(MULTIPLES))
        at = MULTIPLES.index(1.0)
        assert waste[at] == pytest.approx(0, abs=1e-9), valley.law
        assert np.all(np.diff(waste[: at + 1]) < 0), valley.law
        assert np.all(np.diff(waste[at:]) > 0), valley.law
        assert np.all(waste < 1), valley.law


def test_isoflop_slices_alone_tell_the_waste_to_second_order(slices):
    alone = study(slices.runs, target_flops=3e20, param_count="total", replicates=0, laws=("isoflop",))

    plan = allocate(alone)

    assert plan.valley.law == "isoflop"
    assert "curvature" in plan.to_json()["regret_how"]
    for k in (0.75, 1.25, 1.5, 2.0):
        assert float(plan.valley.wasted(k)) == pytest.approx(closed_waste(k, 0.35, 0.37), rel=0.1), k


def test_the_average_forecasts_and_its_own_surface_tells_the_waste(usual):
    found = allocate(usual)

    assert (found.law, found.valley.law) == ("averaged", "averaged")
    assert [row.law for row in found.laws] == ["averaged", "isoflop", "chinchilla", "kaplan"]
    assert found.intervals["n_params"] == usual.forecast.intervals["n_params"]
    low, high = found.near_optimal["n_params"]
    assert low < found.n_params < high


def test_what_is_quoted_of_another_size_is_the_calibrated_interval_moved_along(usual):
    forecast = usual.forecast
    N, D, loss = (forecast.values[key] for key in ("n_params", "n_tokens", "loss"))

    found = expected(usual, n_params=1.5 * N, n_tokens=D / 1.5, flops=3e20)

    ends = [end * found.loss / loss for end in forecast.calibrated["loss"]]
    noise = found.statistical
    assert forecast.stands_alone
    assert found.loss > 1.001 * loss
    assert found.quoted == pytest.approx([min(ends[0], noise[0]), max(ends[1], noise[1])])


def test_isoflop_speaks_and_a_sound_surface_tells_the_waste(plan):
    assert (plan.law, plan.valley.law) == ("isoflop", "chinchilla")


@pytest.mark.parametrize(
    ("laws", "told"),
    [
        (("kaplan", "chinchilla"), "kaplan"),  # its own N* is the one that it tells the waste of
        (("isoflop", "kaplan", "chinchilla"), "chinchilla"),  # the runs refute kaplan
    ],
)
def test_whose_surface_tells_the_waste(slices, laws, told):
    found = study(slices.runs, target_flops=3e20, param_count="total", replicates=0, laws=laws)

    assert allocate(found).valley.law == told


def test_near_optimal_sizes_waste_the_bound_at_their_ends(plan):
    low, high = plan.near_optimal["n_params"]

    assert plan.valley.wasted(low / plan.n_params) == pytest.approx(0.05, abs=1e-6)
    assert plan.valley.wasted(high / plan.n_params) == pytest.approx(0.05, abs=1e-6)
    assert low < plan.n_params < high
    ratios = plan.near_optimal["tokens_per_param"]
    assert ratios == pytest.approx(
        [plan.tokens_per_param * (plan.n_params / n) ** 2 for n in (high, low)], rel=1e-6
    )


def test_a_wider_bound_allows_more_sizes(slices, plan):
    wide = allocate(slices, near_bound=0.2).near_optimal["n_params"]

    assert wide[0] < plan.near_optimal["n_params"][0]
    assert wide[1] > plan.near_optimal["n_params"][1]


def test_every_law_has_its_row_and_the_speaker_is_first(plan, slices):
    rows = {row.law: row for row in plan.laws}

    assert [row.law for row in plan.laws] == ["isoflop", "chinchilla", "kaplan"]
    assert rows["isoflop"].intervals == {
        key: slices.forecast.statistical[key] for key in rows["isoflop"].intervals
    }
    assert "error on the runs" in rows["kaplan"].refuted
    assert rows["chinchilla"].refuted is None
    said = [rows[name].n_params for name in ("isoflop", "chinchilla")]
    assert plan.disagreement["n_params"] == pytest.approx(max(said) / min(said))


def test_the_true_optimum_lies_in_the_quoted_intervals(plan, truth):
    G = (0.35 * 480 / (0.37 * 2100)) ** (1 / 0.72)
    N = G * (3e20 / 6) ** (0.37 / 0.72)
    D = 3e20 / 6 / N
    loss = truth["E"] + 480 / N**0.35 + 2100 / D**0.37

    true = {"n_params": N, "n_tokens": D, "tokens_per_param": D / N, "loss": loss}
    for key, value in true.items():
        low, high = plan.intervals[key]
        assert low <= value <= high, key


def test_what_is_at_stake_is_the_waste_at_the_worse_end(plan):
    low, high = plan.intervals["n_params"]

    ends = [float(plan.valley.wasted(plan.n_params / end)) for end in (low, high)]
    assert plan.at_stake == pytest.approx(max(ends))


def test_json_has_the_keys_of_a_plan_and_is_strict(plan):
    told = plan.to_json()

    assert {"n_params", "n_tokens", "tokens_per_param", "loss", "level", "reach"} <= set(told)
    assert set(told["intervals"]) == {"n_params", "n_tokens", "tokens_per_param", "loss"}
    assert {"0.25", "0.5", "0.75", "1.25", "1.5", "2", "3", "4"} <= set(told["regret"])
    assert told["status"] == "extrapolated"
    assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_a_law_of_the_loss_alone_has_no_size(slices):
    found = study(
        slices.runs, target_flops=3e20, param_count="total", replicates=0, laws=("isoflop", "frontier")
    )

    row = allocate(found).laws[1]

    assert (row.law, row.n_params, row.tokens_per_param) == ("frontier", None, None)
    assert row.loss == pytest.approx(allocate(found).loss, rel=0.01)


def test_refuses_a_bound_that_is_no_share(slices):
    with pytest.raises(PlanError, match=r"the bound on wasted compute is 1\.5"):
        allocate(slices, near_bound=1.5)


def test_the_loss_of_the_best_model_is_the_forecast(slices, plan):
    found = expected(slices, n_params=plan.n_params, n_tokens=plan.n_tokens, flops=3e20)

    assert found.loss == pytest.approx(plan.loss, rel=1e-9)
    assert found.statistical == pytest.approx(plan.statistical["loss"], rel=1e-9)
    assert found.quoted == pytest.approx(plan.intervals["loss"], rel=1e-9)


def test_a_model_off_the_best_size_is_expected_to_lose_what_the_surface_says(slices, plan, truth):
    N = 2 * plan.n_params
    D = 3e20 / 6 / N

    found = expected(slices, n_params=N, n_tokens=D, flops=3e20)

    assert found.wasted == pytest.approx(0.157, abs=0.005)
    assert found.loss == pytest.approx(1.8 + 480 / N**0.35 + 2100 / D**0.37, rel=0.003)
    assert found.loss > plan.loss
    low, high = found.quoted
    assert low < found.loss < high


def test_a_surface_that_speaks_is_asked_at_the_model_itself(known):
    found = expected(known, n_params=2e11, n_tokens=1e24 / 6 / 2e11, flops=1e24)

    D = 1e24 / 6 / 2e11
    assert found.loss == pytest.approx(1.8 + 480 / 2e11**0.35 + 2100 / D**0.37, rel=1e-6)
    assert found.statistical is None
    assert found.quoted is None


def test_the_spread_of_laws_moves_with_the_compute_of_the_model(hoffmann):
    values, structural = hoffmann.forecast.values, hoffmann.forecast.structural["loss"]
    D = 0.95 * values["n_tokens"]

    found = expected(hoffmann, n_params=values["n_params"], n_tokens=D, flops=0.95 * 5.76e23)

    moved = structural[0] * found.loss / values["loss"]
    assert moved < found.statistical[0]
    assert found.quoted[0] == pytest.approx(moved, rel=1e-12)
    assert found.loss > values["loss"]


def test_refuses_a_model_of_another_compute(slices):
    with pytest.raises(PlanError, match=r"costs 1e21 FLOPs, the forecast is for 3e20"):
        expected(slices, n_params=1e9, n_tokens=1e11, flops=1e21)


def test_refuses_figures_that_are_not_positive(slices):
    with pytest.raises(PlanError, match="n_tokens is -1"):
        expected(slices, n_params=1e9, n_tokens=-1, flops=3e20)


def test_flops_that_are_not_6nd_move_the_tokens_of_other_sizes(attending):
    plan = allocate(attending)

    for multiple in plan.regret:
        spent = (6 * multiple.n_params + 4e4 * np.sqrt(multiple.n_params)) * multiple.n_tokens
        assert spent == pytest.approx(1e21, rel=1e-6), multiple.k
    at_two = next(m for m in plan.regret if m.k == 2)
    assert at_two.n_tokens > 0.51 * plan.n_tokens


def test_json_names_what_the_quoted_interval_comes_from(usual):
    told = json.loads(json.dumps(allocate(usual).to_json()))

    assert told["quoted_from"] == list(usual.forecast.sources("n_params"))
    assert told["quoted_from"]
    assert told["calibrated"]["loss"] == usual.forecast.calibrated["loss"]
    assert told["expected_error"] == usual.forecast.expected_error > 0
