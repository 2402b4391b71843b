"""Requests for a plan from Python: every field is of the type that its flag would give."""

import numpy as np
import pytest

from scalelab.errors import PlanError
from scalelab.plan.request import PlanRequest

PLAIN = {"params": 7e9, "tokens": 1.4e11, "gpu": "h100", "gpus": 64, "mfu": 0.4}


@pytest.mark.parametrize(
    ("name", "value", "fix"),
    [
        ("param_count", "7B", "use one of: total"),
        ("param_count", 3, "give text"),
        ("gpus", 1.5, "give a whole number"),
        ("gpus", True, "give a number"),
        ("gpus", "8", "give a number"),
        ("params", 10**400, "give a finite number"),
        ("tokens", float("nan"), "give a finite number"),
        ("mfu", 1j, "give a number"),
        ("seed", 0.5, "give a whole number"),
        ("region", "x" * 5000, "give at most 1,000 characters"),
        ("gpu", 3, "give text"),
        ("price", True, "give a number"),
    ],
)
def test_a_value_of_another_type_is_refused_by_its_flag(name, value, fix):
    with pytest.raises(PlanError) as error:
        PlanRequest(**PLAIN | {name: value})

    assert error.value.problem.startswith(f"--{name.replace('_', '-')} is ")
    assert len(error.value.problem) < 100
    assert fix in error.value.fix


@pytest.mark.parametrize(
    "values",
    [{}, {"gpus": np.int64(8)}, {"params": np.float64(7e9)}, {"params": 7 * 10**9}, {"price": "2-3"}],
)
def test_numbers_of_numpy_and_ranges_are_taken(values):
    request = PlanRequest(**PLAIN | values)

    assert all(getattr(request, name) == value for name, value in values.items())
