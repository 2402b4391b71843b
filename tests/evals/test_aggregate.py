"""Aggregates by hand, what absence does to them, and the sets they name."""

import numpy as np
import pytest

from scalelab.errors import DataError
from scalelab.evals.aggregate import ScoreTable, mean_above_chance, mean_win_rate

NONE = np.nan


def table(score, **other):
    score = np.array(score, float)
    models = tuple("abcdef"[: len(score)])
    return ScoreTable(models, tuple("uvwxyz"[: score.shape[1]]), score, **other)


def test_win_rate_by_hand():
    """u: a beats both, b beats c. v: a and b tie above c."""
    result = mean_win_rate(table([[0.9, 0.5], [0.8, 0.5], [0.2, 0.1]]))

    np.testing.assert_allclose(result.by_scenario, [[1, 0.75], [0.5, 0.75], [0, 0]])
    np.testing.assert_allclose(result.value, [0.875, 0.625, 0])


def test_win_rates_average_to_a_half():
    score = np.random.default_rng(0).integers(0, 5, (6, 5)) / 5  # ties in every scenario

    assert mean_win_rate(table(score)).value.mean() == pytest.approx(0.5)


def test_lower_may_be_better():
    scores = [[0.9, 3.0], [0.8, 2.0], [0.2, 1.0]]

    result = mean_win_rate(table(scores, lower_is_better=frozenset({"v"})))

    np.testing.assert_allclose(result.value, [0.5, 0.5, 0.5])


def test_only_the_order_of_scores_matters():
    score = np.random.default_rng(0).random((5, 4))

    np.testing.assert_allclose(
        mean_win_rate(table(score)).value, mean_win_rate(table(np.exp(9 * score))).value
    )


def test_an_absent_score_is_absent_and_not_a_zero():
    """Model c was not run in v: there a beats one of one, and c is the mean of u alone."""
    result = mean_win_rate(table([[0.1, 0.5], [0.2, 0.4], [0.9, NONE]]))

    np.testing.assert_allclose(result.value, [0.5, 0.25, 1.0])
    assert result.is_complete.tolist() == [True, True, False]
    assert result.absent == (("c", "v"),)
    assert "missing: c in v" in result.summary()
    assert "1 of 2  not comparable: scenarios are missing" in result.summary()


def test_a_scenario_of_one_model_is_left_out_and_named():
    result = mean_win_rate(table([[0.1, 0.5], [0.2, NONE]]))

    assert result.scenarios == ("u",)
    assert result.left_out == ("v",)
    assert "left out, fewer than two models: v" in result.summary()


def test_a_model_that_met_nobody_has_no_value():
    result = mean_win_rate(table([[0.1, NONE], [0.2, NONE], [NONE, 0.5]]))

    assert np.isnan(result.value[2])
    assert result.summary().splitlines()[4].split()[:2] == ["c", "-"]  # last


def test_another_model_changes_the_win_rate_so_the_set_is_printed():
    small = mean_win_rate(table([[0.9, 0.5], [0.8, 0.6]]))
    large = mean_win_rate(table([[0.9, 0.5], [0.8, 0.6], [0.85, 0.7]]))

    assert small.value[0] == small.value[1]
    assert large.value[0] > large.value[1]
    assert "depends on 2 models: a, b" in small.summary()
    assert "depends on 3 models: a, b, c" in large.summary()
    assert "depends on 2 scenarios: u, v" in large.summary()


def test_the_table_is_sorted_best_first():
    lines = mean_win_rate(table([[0.2], [0.8], [0.5]])).summary().splitlines()

    assert [line.split()[0] for line in lines[2:5]] == ["b", "c", "a"]


def test_above_chance_by_hand():
    """100 (.7 - .25) / .75 = 60 and 100 x .4 / 1 = 40."""
    result = mean_above_chance(table([[0.7, 0.4]]), {"u": 0.25, "v": 0.0})

    np.testing.assert_allclose(result.by_scenario, [[60, 40]])
    np.testing.assert_allclose(result.value, [50])
    assert result.floored == ()
    assert "below chance" not in result.summary()


def test_guessing_is_0_and_perfection_100():
    result = mean_above_chance(table([[0.25, 0.5], [1, 1]]), {"u": 0.25, "v": 0.5})

    np.testing.assert_allclose(result.value, [0, 100])


def test_below_chance_enters_as_0_and_is_named():
    result = mean_above_chance(table([[0.2, 0.6], [0.5, 0.5]]), {"u": 0.25, "v": 0.2})

    np.testing.assert_allclose(result.value[0], 25)  # (0 + 50) / 2, not (-6.7 + 50) / 2
    assert result.floored == (("a", "u", pytest.approx(-100 / 15)),)
    assert "below chance, counted as 0: a in u (-6.7)" in result.summary()


def test_a_mean_over_fewer_scenarios_says_so():
    result = mean_above_chance(table([[0.7, NONE], [0.7, 0.4]]), {"u": 0.25, "v": 0.0})

    np.testing.assert_allclose(result.value, [60, 50])
    assert result.is_complete.tolist() == [False, True]
    assert "missing: a in v" in result.summary()


GOOD = {"models": ("a", "b"), "scenarios": ("u",), "score": np.array([[0.5], [0.6]])}


@pytest.mark.parametrize(
    ("change", "problem", "fix"),
    [
        (
            {"score": np.array([[0.5, 0.6]])},
            "shape (1, 2) for 2 model(s) and 1 scenario(s)",
            "one row per model",
        ),
        ({"models": ("a", "a")}, "model 'a' occurs twice", "every model one name"),
        ({"scenarios": (), "score": np.zeros((2, 0))}, "2 model(s), 0 scenario(s)", "at least one"),
        ({"score": np.array([[0.5], [np.inf]])}, "b scores inf in u", "NaN if"),
        ({"score": np.array([[0.5], [NONE]])}, "model 'b' has no score", "remove the model, or run it"),
        ({"lower_is_better": frozenset({"w"})}, "'w', which is not a scenario", "one of u"),
    ],
)
def test_tables_that_cannot_be_read_are_refused(change, problem, fix):
    with pytest.raises(DataError) as caught:
        ScoreTable(**GOOD | change)

    assert problem in caught.value.problem
    assert caught.value.where == "the table of scores, models by scenarios"
    assert fix in caught.value.fix


def test_a_win_rate_needs_a_rival():
    with pytest.raises(DataError) as caught:
        mean_win_rate(table([[0.5, NONE], [NONE, 0.5]]))

    assert "no scenario has scores of two models" in caught.value.problem
    assert "models by scenarios" in caught.value.where
    assert "evaluate a second model" in caught.value.fix


@pytest.mark.parametrize(
    ("change", "chance", "problem", "fix"),
    [
        (
            {"score": np.array([[50.0], [60.0]])},
            {"u": 0.25},
            "a scores 50.0 in u, which is not an accuracy",
            "divide percentages by 100",
        ),
        ({}, {}, "scenario 'u' is in the scores or in the chances", "exactly these scenarios"),
        ({}, {"u": 0.25, "v": 0.25}, "scenario 'v'", "exactly these scenarios"),
        ({}, {"u": 1.0}, "chance 1.0 in u", "below 1"),
        ({}, {"u": NONE}, "chance nan in u", "a share"),
        ({"lower_is_better": frozenset({"u"})}, {"u": 0.25}, "lower is better in u", "accuracies"),
    ],
)
def test_a_mean_above_chance_needs_accuracies_and_chances(change, chance, problem, fix):
    with pytest.raises(DataError) as caught:
        mean_above_chance(ScoreTable(**GOOD | change), chance)

    assert problem in caught.value.problem
    assert "models by scenarios" in caught.value.where
    assert fix in caught.value.fix
