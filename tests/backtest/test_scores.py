"""Scores against closed forms: an oracle that knows the law and the noise of simulated tables."""

from statistics import NormalDist

import numpy as np
import pytest

from scalelab.backtest.base import LEVELS, Answer
from scalelab.backtest.board import loss_errors, size_errors
from scalelab.backtest.cases import BacktestCase, ObservedSize, loss_cases
from scalelab.backtest.scores import (
    ErrorTable,
    balanced,
    by_group,
    compare_errors,
    exact_range,
    score_band,
    to_json,
)

NOISE = 0.004
NORMAL = NormalDist()


def errors(error, *, family="f", case=None, reach=3.0, width=0.1, expected=np.nan, trusted=np.nan, table="t"):
    """Rows of errors with intervals of half a width on each side."""
    error = np.asarray(error, float)
    n = len(error)
    fill = lambda value: np.broadcast_to(np.asarray(value), (n,)).copy()  # noqa: E731
    return ErrorTable(
        fill(np.asarray(table, object)),
        fill(np.asarray(family, object)),
        np.arange(n) if case is None else np.asarray(case),
        fill(reach).astype(float),
        error,
        (0.8,),
        (width / 2 - error)[None],
        (width / 2 + error)[None],
        fill(expected).astype(float),
        fill(np.nan).astype(float),
        fill(trusted).astype(float),
    )


@pytest.fixture(scope="module")
def oracle(table_of, soft_max):
    """Errors of a method that knows the law and the noise, on 60 tables whose runs are all asked for."""
    rows = []
    for seed in range(60):
        for case in loss_cases(table_of(seed)):
            loss = soft_max(case.asked.N, case.asked.D)
            away = np.array([NORMAL.inv_cdf((1 + level) / 2) * NOISE for level in LEVELS])[:, None]
            rows.append((len(rows), case, Answer(LEVELS, loss, loss * np.exp(-away), loss * np.exp(away))))
    return loss_errors(rows)


@pytest.mark.parametrize("k", range(len(LEVELS)))
def test_the_oracle_covers_what_it_says(oracle, k):
    near = score_band(oracle, 0, 15)

    n = len({(t, round(e, 12)) for t, e in zip(oracle.table, oracle.error, strict=True)})
    assert n == 600  # runs that differ, each asked for in two cases
    three_sd = 3 * np.sqrt(LEVELS[k] * (1 - LEVELS[k]) / 600)
    assert near.coverage[k].balanced == pytest.approx(LEVELS[k], abs=three_sd)
    assert near.coverage[k].share == pytest.approx(near.coverage[k].balanced)  # equal families


@pytest.mark.parametrize("k", range(len(LEVELS)))
def test_the_oracle_has_the_interval_score_of_a_normal(oracle, k):
    z, alpha = NORMAL.inv_cdf((1 + LEVELS[k]) / 2), 1 - LEVELS[k]
    beyond = NORMAL.pdf(z) - z * (1 - NORMAL.cdf(z))

    near = score_band(oracle, 0, 15)

    assert near.coverage[k].interval_score == pytest.approx(NOISE * (2 * z + 4 / alpha * beyond), rel=0.08)
    assert near.coverage[k].median_width == pytest.approx(2 * z * NOISE)


def test_the_oracle_has_the_error_of_a_normal(oracle):
    near = score_band(oracle, 0, 15)

    assert near.error == pytest.approx(NOISE * np.sqrt(2 / np.pi), rel=0.1)
    assert abs(near.bias) < 4 * NOISE / np.sqrt(600)
    assert near.error_range[0] < near.error < near.error_range[1]


@pytest.mark.parametrize("stretch", [0.8, 1.25])
def test_no_other_width_scores_better_than_the_oracle(oracle, stretch):
    k = LEVELS.index(0.8)
    middle = (oracle.below[k] - oracle.above[k]) / 2  # ln actual - ln forecast
    half = stretch * (oracle.below[k] + oracle.above[k]) / 2
    other = ErrorTable(
        **{**vars(oracle), "levels": (0.8,), "below": (half + middle)[None], "above": (half - middle)[None]}
    )

    assert (
        score_band(other, 0, 15).coverage[0].interval_score
        > score_band(oracle, 0, 15).coverage[k].interval_score
    )


def test_a_balanced_mean_weighs_families_then_cases():
    rows = errors([1, 1, 1, 3, 8], family=np.array([*"aaaab"], object), case=[0, 0, 0, 1, 2])

    assert by_group(rows.error, rows.family, rows.case) == {"a": 2.0, "b": 8.0}
    assert balanced(rows.error, rows) == 5.0


def test_bands_are_above_and_up_to_a_reach():
    rows = errors([0.01, 0.02, 0.03], reach=np.array([15.0, 15.1, 151.0]))

    assert [score_band(rows, *band).n for band in ((0, 15), (15, 150), (150, np.inf))] == [1, 1, 1]
    assert score_band(rows, 0, 1) is None


def test_an_interval_outside_pays_by_its_distance():
    inside, outside = errors([0.04], width=0.1), errors([0.08], width=0.1)

    assert score_band(inside, 0, 15).coverage[0].interval_score == pytest.approx(0.1)
    assert score_band(outside, 0, 15).coverage[0].interval_score == pytest.approx(0.1 + 2 / 0.2 * 0.03)
    assert score_band(outside, 0, 15).coverage[0].share == 0


def test_an_error_of_one_and_a_half_times_the_expected_is_honest():
    rows = errors(np.log1p([0.014, -0.0149, 0.016]), expected=0.01)

    assert score_band(rows, 0, 15).honest == pytest.approx(2 / 3)
    assert score_band(errors([0.01]), 0, 15).honest is None


def test_what_is_not_trusted_is_counted_apart():
    score = score_band(errors([0.01, 0.09], trusted=np.array([1.0, 0.0])), 0, 15)

    assert (score.trusted, score.trusted_error) == (0.5, pytest.approx(0.01))


def test_the_range_of_exact_intervals_is_that_of_a_binomial():
    low, high = exact_range(0.8, 51)

    chance = [NORMAL.cdf((x * 51 - 0.8 * 51) / np.sqrt(51 * 0.8 * 0.2)) for x in (low, high)]
    assert chance[0] == pytest.approx(0.025, abs=0.02)
    assert chance[1] == pytest.approx(0.975, abs=0.02)
    assert exact_range(0.8, 1) == (0.0, 1.0)
    assert exact_range(0.8, 4000) == pytest.approx((0.8 - 0.0124, 0.8 + 0.0124), abs=0.001)


def test_methods_are_compared_on_what_both_answered():
    reference = {(0, 0): 0.02, (0, 1): 0.04, (1, 0): 0.1}
    mine = {(0, 0): 0.01, (1, 0): 0.2, (2, 0): 9.0}

    found = compare_errors(mine, reference, {0: "a", 1: "b", 2: "c"})

    assert found.n == 2
    assert found.ratio == pytest.approx(1.0)  # half in one family, twice in the other
    assert (found.worst, found.worst_family) == (pytest.approx(2.0), "b")
    assert compare_errors({}, reference, {}) is None


def test_a_wrong_size_wastes_the_compute_that_its_loss_is_worth(table_of):
    table = table_of()
    budget = ObservedSize(1e21, 1e9, curvature=0.02)
    none = table.runs.take(np.zeros(0, int))
    case = BacktestCase(
        "t", "f", "x", "size", table.runs.take(table.runs.C < 1e20), none, (budget,), decline=0.05
    )
    answer = Answer(LEVELS, np.zeros(0), sizes=np.array([2e9]))

    rows = size_errors([(0, case, answer)])

    assert rows.error == pytest.approx(np.log(2))
    assert rows.wasted == pytest.approx(1 - np.exp(-0.02 * np.log(2) ** 2 / 0.05))
    assert score_band(rows, 10, np.inf).wasted == pytest.approx(rows.wasted[0])


def test_scores_are_json(oracle):
    import json

    text = json.dumps(to_json(score_band(oracle, 15, np.inf)), allow_nan=False)

    assert json.loads(text)["high"] is None
