"""Constants of a method made anew without the family that is scored.

    factor(level) = quantile of |ln error| / distance of the end on that side, at that level,
                    over other cases; every family weighs the same, every case of it the same

A method that freezes such constants from the development tables returns `rescaled(others)` from
`ForecastMethod.calibrate`. The width of an interval q s(case), with q frozen from tables that the
scored family is among, becomes q' s(case) with q' from the others: the frozen q cancels. The expected error, of
which HONEST times holds EXPECTED of the errors, is made anew in the same way.

Source: split conformal prediction, Vovk et al. 2005, and for groups of dependent cases the
leave-one-group-out form, Barber et al. 2021, arXiv:1905.02928.

Not here: which methods have such constants (methods/).
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from scalelab.backtest.base import Answer, AnsweredCase, ForecastMethod, Recalibration
from scalelab.backtest.scores import HONEST
from scalelab.laws.observations import Array
from scalelab.laws.uncertainty.conformal import EXPECTED
from scalelab.laws.weighted_quantile import weighted_quantile

SMALLEST = 1e-12
"""Distance of an end from the forecast below which an interval has no width to scale."""


def left_out(method: ForecastMethod, answered: Mapping[str, AnsweredCase]) -> dict[str, Answer] | None:
    """Return every answer with constants from other families; None for a method without constants.

    Args:
        method: The method.
        answered: Its answers by key of the case.
    """
    found: dict[str, Answer] = {}
    for family in dict.fromkeys(each.family for each in answered.values()):
        others = [each for each in answered.values() if each.family != family]
        recalibrate = method.calibrate(others) if others else None
        if recalibrate is None:
            return None
        found |= {key: recalibrate(each.answer) for key, each in answered.items() if each.family == family}
    return found


def rescaled(others: Sequence[AnsweredCase]) -> Recalibration:
    """Return what gives the intervals of a method the width that other cases ask for.

    Args:
        others: Its answers to them. Levels without an interval stay as they are.
    """
    levels = next((each.answer.levels for each in others), ())
    loss = [
        _balanced(others, level, lambda each, k=k: _loss_misses(each, k)) for k, level in enumerate(levels)
    ]
    sizes = [
        _balanced(others, level, lambda each, k=k: _size_misses(each, k)) for k, level in enumerate(levels)
    ]
    errors = _balanced(others, EXPECTED, _error_misses)
    return lambda answer: answer.scaled(loss, sizes, errors)


def _balanced(others: Sequence[AnsweredCase], level: float, misses: Callable[[AnsweredCase], Array]) -> float:
    """Quantile at one level of what each case gives, every family weighing the same; 1 where none gives any."""
    found = [(each.family, misses(each)) for each in others]
    found = [(family, values) for family, values in found if values.size]
    if not found:
        return 1.0
    cases = {family: sum(one == family for one, _ in found) for family, _ in found}
    weights = np.concatenate([np.full(v.size, 1 / (v.size * cases[family])) for family, v in found])
    return weighted_quantile(np.concatenate([values for _, values in found]), weights, level)


def _loss_misses(each: AnsweredCase, k: int) -> Array:
    answer = each.answer
    if answer.low is None or answer.high is None:
        return np.zeros(0)
    return _in_widths(answer.loss, answer.low[k], answer.high[k], each.loss)


def _size_misses(each: AnsweredCase, k: int) -> Array:
    answer = each.answer
    if answer.sizes is None or answer.size_low is None or answer.size_high is None:
        return np.zeros(0)
    return _in_widths(answer.sizes, answer.size_low[k], answer.size_high[k], each.sizes)


def _error_misses(each: AnsweredCase) -> Array:
    """|error| over HONEST times the expected one."""
    expected = each.answer.expected_error
    if expected is None:
        return np.zeros(0)
    error = np.abs(each.answer.loss / each.loss - 1)
    return error / np.maximum(HONEST * expected, SMALLEST)


def _in_widths(middle: Array, low: Array, high: Array, truth: Array) -> Array:
    """|ln error| over the distance of the end on the side of the truth."""
    error = np.log(truth / middle)
    side = np.where(error > 0, np.log(high / middle), np.log(middle / low))
    return np.abs(error) / np.maximum(side, SMALLEST)
