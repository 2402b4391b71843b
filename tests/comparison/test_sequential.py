"""Looks and challengers: known boundaries, and what a normal walk crosses by chance."""

import numpy as np
import pytest

from scalelab.comparison.sequential import boundary, crossed, holm, nominal_level
from scalelab.errors import ConfigError


@pytest.mark.parametrize(("looks", "published"), [(1, 1.960), (2, 1.977), (3, 2.004), (4, 2.024), (5, 2.040)])
def test_the_constants_are_those_of_the_book(looks, published):
    assert boundary(0.025, looks) == pytest.approx(
        published, abs=0.0015
    )  # Jennison & Turnbull 2000, table 2.3


def test_a_walk_without_drift_crosses_the_boundary_as_often_as_stated():
    z = np.cumsum(np.random.default_rng(0).standard_normal((100_000, 4)), axis=1) / np.sqrt([1, 2, 3, 4])
    levels = [nominal_level(0.05, look, 4) for look in (1, 2, 3, 4)]
    from scipy.special import ndtri

    hits = (z > -ndtri(levels)).any(axis=1).mean()

    assert hits == pytest.approx(0.05, abs=0.0025)
    assert levels == sorted(levels)
    assert (z > -ndtri(0.05)).any(axis=1).mean() > 0.1  # what the plain level would do


def test_a_higher_boundary_is_crossed_less_often():
    assert crossed(2.5, 3) < crossed(2.0, 3) < 0.03


def test_holm_is_stepwise_and_keeps_the_order():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx((0.03, 0.06, 0.06))
    assert holm([0.2]) == (0.2,)
    assert holm([0.6, 0.7]) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("alpha", "look", "looks"), [(0.0, 1, 1), (0.6, 1, 1), (0.05, 3, 2), (0.05, 0, 2), (0.05, 1, 99)]
)
def test_an_impossible_look_is_refused(alpha, look, looks):
    with pytest.raises(ConfigError):
        nominal_level(alpha, look, looks)
