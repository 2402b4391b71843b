"""Whether a forecast that was made again is the one that was frozen.

    same_forecast(stored, made) -> bool

Equal exactly: the runs in evidence, the run to be launched, laws, grade and every other text or whole number.
Equal within SAME_NUMBERS: fitted numbers, whose last digits differ between processors. Not compared: time,
version of the code, and wording.

Not here: what becomes of either (report/plan/directory.py).
"""

import math
from dataclasses import replace
from typing import Any

from scalelab.plan.forecast.frozen import WITHOUT_RUN, FrozenForecast

SAME_NUMBERS = 1e-5
"""Relative difference up to which a fitted number is the same. Assumed: no report shows a sixth digit."""
PROSE = ("verdict", "warnings", "holdout_absent", "band_absent")
"""Sentences of a forecast. Versions word them differently; the grade and every number are compared."""


def same_forecast(stored: FrozenForecast, made: FrozenForecast) -> bool:
    """Return whether two forecasts are the same.

    One frozen with a reason (--override) is the same as one that is made without.
    """
    stored = replace(stored, created=made.created, code=made.code)
    if made.override is None:
        stored = replace(stored, override=None)
    if stored.schema == WITHOUT_RUN:  # the run's size is in its other fields
        stored = replace(stored, schema=made.schema, run=made.run)
    stored = replace(stored, **{name: getattr(made, name) for name in PROSE})
    return _agree(stored.to_json() | {"digest": None}, made.to_json() | {"digest": None})


def _agree(one: Any, other: Any) -> bool:
    """Return whether two JSON values are equal, numbers that are not whole within SAME_NUMBERS."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_agree(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_agree, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=SAME_NUMBERS)
    return one == other
