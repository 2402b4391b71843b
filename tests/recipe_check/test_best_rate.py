"""The best rate from losses at rates of a grid: closed forms, noise, ends of the grid, verdicts."""

import math

import numpy as np
import pytest

from scalelab.recipe_check.base import CheckFinding, RecipeMeasure
from scalelab.recipe_check.best_rate import best_rate, moved


def valley(at, places, seeds=3, noise=0.0, depth=0.1, seed=0):
    """Losses of a parabola, with an effect of each seed and noise of each run."""
    draw = np.random.default_rng(seed)
    luck = draw.normal(0, 0.05, seeds)
    return {k: list(3 + depth * (k - at) ** 2 + luck + draw.normal(0, noise, seeds)) for k in places}


@pytest.mark.parametrize("at", [-0.45, 0.0, 0.3])
def test_the_vertex_of_a_parabola_is_found_whatever_the_seeds_have_in_common(at):
    found = best_rate(valley(at, (-1, 0, 1)))

    assert found.at == pytest.approx(at)
    assert found.side == 0
    assert np.allclose(found.residuals, 0, atol=1e-12)


@pytest.mark.parametrize(("at", "side"), [(-3, -1), (3, 1)])
def test_an_optimum_beyond_the_grid_is_at_its_end(at, side):
    found = best_rate(valley(at, (-1, 0, 1)))

    assert (found.at, found.side) == (side, side)


def test_the_interval_of_a_move_holds_the_truth_as_often_as_it_says():
    held, n = 0, 400
    for seed in range(n):
        first = best_rate(valley(-0.1, (-1, 0, 1), noise=0.01, seed=seed))
        second = best_rate(valley(0.2, (-1, 0, 1), noise=0.01, seed=seed + n))
        measure = moved("move", first, second, 3, 1.0)
        held += measure.low <= 0.3 <= measure.high

    assert held / n == pytest.approx(0.8, abs=0.07)


def test_a_move_beyond_the_limit_fails_and_one_within_is_ok():
    grid = (-1, 0, 1, 2, 3)
    near, far = (
        moved("m", best_rate(valley(0, grid)), best_rate(valley(at, grid)), 3, 1.0) for at in (0.4, 2.2)
    )

    assert (near.verdict, far.verdict) == ("ok", "fails")
    assert far.value == pytest.approx(2.2)


def test_an_optimum_beyond_one_end_bounds_the_move_from_one_side():
    inside, above = best_rate(valley(0, (-1, 0, 1))), best_rate(valley(3, (-1, 0, 1, 2)))

    measure = moved("m", inside, above, 3, 1.0)

    assert measure.high == math.inf
    assert measure.verdict == "fails"  # at least 2 steps
    assert moved("m", above, inside, 3, 1.0).low == -math.inf
    assert measure.to_json()["high"] is None


def test_two_optima_beyond_the_same_end_say_nothing():
    above = best_rate(valley(3, (-1, 0, 1)))

    measure = moved("m", above, above, 3, 1.0)

    assert (measure.value, measure.verdict) == (None, "undecided")
    assert "tune the rate first" in measure.reason


def test_the_verdict_of_a_check_is_its_worst_measure():
    ok, unknown = RecipeMeasure("a", 0.1, 0.0, 0.2, 0.5), RecipeMeasure("b", None, None, None, 0.5, "no data")
    fails, wide = RecipeMeasure("c", -0.9, -1.0, -0.8, 0.5), RecipeMeasure("d", 0.4, 0.1, 0.7, 0.5)

    assert [m.verdict for m in (ok, unknown, fails, wide)] == ["ok", "undecided", "fails", "undecided"]
    assert CheckFinding([ok, ok], {}).verdict == "ok"
    assert CheckFinding([ok, wide], {}).verdict == "undecided"
    assert CheckFinding([ok, unknown, fails], {}).worst == fails
