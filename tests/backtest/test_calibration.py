"""Constants made anew without the family that is scored."""

from dataclasses import replace

import numpy as np
import pytest

from scalelab.backtest.base import LEVELS, Answer, AnsweredCase, ForecastMethod
from scalelab.backtest.calibration import left_out, rescaled

NONE = np.zeros(0)


class Frozen(ForecastMethod):
    """A method whose width was made from tables."""

    summary, source = "frozen", "a test"

    def forecast(self, evidence, question):
        raise NotImplementedError

    def calibrate(self, others):
        return rescaled(others)


def answered(family, errors, half=0.01, sizes=None):
    errors = np.asarray(errors, float)
    loss = np.full(len(errors), 2.0)
    away = half * np.asarray(LEVELS)[:, None] * np.ones(len(errors))
    answer = Answer(LEVELS, loss, loss * np.exp(-away), loss * np.exp(away))
    if sizes is not None:
        answer = replace(
            answer, sizes=np.array([1e9]), size_low=np.full((5, 1), 5e8), size_high=np.full((5, 1), 2e9)
        )
    reach = np.full(len(errors), 3.0)
    truth = NONE if sizes is None else np.array([sizes])
    return AnsweredCase(family, family, answer, reach, loss * np.exp(errors), np.full(len(truth), 3.0), truth)


@pytest.mark.parametrize("k", range(len(LEVELS)))
def test_rescaled_intervals_cover_their_level_of_what_they_were_made_from(k):
    rng = np.random.default_rng(0)
    others = [answered(f"f{i}", 0.03 * rng.standard_normal(20)) for i in range(20)]

    recalibrate = rescaled(others)

    inside = []
    for each in others:
        made = recalibrate(each.answer)
        inside += (
            (made.low[k] <= each.loss * (1 + 1e-12)) & (each.loss <= made.high[k] * (1 + 1e-12))
        ).tolist()
    assert np.mean(inside) == pytest.approx(LEVELS[k], abs=0.004)


def test_the_width_that_was_frozen_cancels():
    rng = np.random.default_rng(1)
    errors = 0.02 * rng.standard_normal((6, 10))
    wide = [answered(f"f{i}", row, half=0.5) for i, row in enumerate(errors)]
    narrow = [answered(f"f{i}", row, half=0.001) for i, row in enumerate(errors)]

    one, other = rescaled(wide)(wide[0].answer), rescaled(narrow)(narrow[0].answer)

    assert one.high == pytest.approx(other.high)
    assert one.low == pytest.approx(other.low)


def test_a_family_has_no_part_in_its_own_constants():
    rest = {f"{family}{i}": answered(family, [0.01, -0.02]) for family in "ab" for i in range(2)}
    near, far = {"x": answered("c", [0.001])}, {"x": answered("c", [3.0])}

    one, other = left_out(Frozen(), rest | near), left_out(Frozen(), rest | far)

    assert np.array_equal(one["x"].high, other["x"].high)
    assert not np.array_equal(one["a0"].high, other["a0"].high)


def test_families_weigh_the_same_however_many_cases_they_have():
    many = [answered("many", [0.01]) for _ in range(50)]
    few = [answered("few", [0.05])]

    made = rescaled(many + few)(many[0].answer)

    assert np.log(made.high[0] / made.loss) == pytest.approx(0.01)  # half of the weight lies there
    assert np.log(made.high[1] / made.loss) == pytest.approx(0.05)


def test_best_sizes_have_constants_of_their_own():
    others = [answered("a", [0.01], sizes=1e9 * np.exp(0.1)), answered("b", [0.01], sizes=1e9 * np.exp(0.2))]

    made = rescaled(others)(others[0].answer)

    assert np.log(made.size_high[-1] / made.sizes) == pytest.approx(0.2)
    assert np.log(made.size_low[-1] / made.sizes) == pytest.approx(-0.2)


def test_the_expected_error_holds_the_errors_that_it_was_made_from():
    """80% of errors are at most 1.5 times the expected one, whatever was stated."""
    rng = np.random.default_rng(2)
    others = [answered(f"f{i}", 0.02 * rng.standard_normal(10)) for i in range(10)]
    others = [replace(each, answer=replace(each.answer, expected_error=np.full(10, 1e-5))) for each in others]

    made = rescaled(others)(others[0].answer).expected_error

    errors = np.abs(np.concatenate([each.answer.loss / each.loss - 1 for each in others]))
    assert np.mean(errors <= 1.5 * made[0] * (1 + 1e-9)) == pytest.approx(0.8, abs=0.011)


def test_an_error_that_was_not_stated_stays_so():
    others = [answered("a", [0.01]), answered("b", [0.02])]

    assert rescaled(others)(others[0].answer).expected_error is None


def test_a_method_without_constants_is_scored_once():
    class Plain(Frozen):
        def calibrate(self, others):
            return None

    assert left_out(Plain(), {"x": answered("a", [0.1]), "y": answered("b", [0.1])}) is None


def test_one_family_alone_cannot_be_left_out():
    assert left_out(Frozen(), {"x": answered("a", [0.1])}) is None
