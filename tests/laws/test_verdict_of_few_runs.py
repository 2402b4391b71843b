"""A far reach from few runs is marked, and graver the farther and the fewer."""

import numpy as np
import pytest

from scalelab.laws import LAWS
from scalelab.laws.forms.softmax import Softmax
from scalelab.laws.observations import Observations
from scalelab.study.study import study

CONSTANTS = {"E": 1.6, "A": 150.0, "B": 70.0, "alpha_N": 0.26, "alpha_D": 0.2, "k": 0.5}


def few(count):
    """Runs of `count` different points at 4 sizes."""
    N = np.tile(np.geomspace(1e8, 8e8, 4), 6)[:count]
    D = 1e10 * np.geomspace(1, 3, count)
    noise = 0.002 * np.random.default_rng(1).standard_normal(count)
    return Observations.of(N, D, Softmax().loss(CONSTANTS, N=N, D=D) * np.exp(noise))


def verdict_of(runs, reach, law="softmax"):
    return study(
        runs, target_flops=reach * float(runs.C.max()), param_count="total", replicates=0, laws=[law]
    ).verdict


@pytest.mark.parametrize(
    ("count", "points", "reach", "marked"),
    [(22, 11, 29, False), (22, 11, 31, True), (24, 12, 31, False), (24, 12, 300, False), (9, 9, 31, True)],
)
def test_fewer_than_two_points_a_constant_beyond_30x_are_marked(count, points, reach, marked):
    """Of larger tables the upper half of the compute holds the constants."""
    runs = few(count)
    assert Softmax().fit(runs).determined_by == (points, 6)

    reasons = verdict_of(runs, reach).reasons

    said = f"{points} different points hold the 6 constants of softmax: at {reach}x"
    assert any(reason.startswith(said) for reason in reasons) == marked
    assert any("different points hold" in reason for reason in reasons) == marked


@pytest.mark.parametrize(("count", "reach", "grave"), [(9, 300, True), (9, 90, False), (10, 300, False)])
def test_nine_points_beyond_100x_forbid_relying_on_it(count, reach, grave):
    reasons = verdict_of(few(count), reach).reasons

    place = next(k for k, reason in enumerate(reasons) if "different points hold" in reason)
    doubt = next(k for k, reason in enumerate(reasons) if reason.startswith("no interval: no bootstrap"))
    assert (place < doubt) == grave  # grave reasons come first


def test_repeats_are_no_further_points():
    runs = few(10)
    twice = Observations.of(*(np.repeat(v, 2) for v in (runs.N, runs.D)), np.repeat(runs.L, 2))

    points, constants = Softmax(share=1.0).fit(twice).determined_by

    assert (points, constants) == (10, 6)


def test_the_rule_asks_the_constants_of_the_law():
    assert LAWS["averaged"]().quick().fit(few(9)).determined_by == (9, 6)
    assert LAWS["chinchilla"]().fit(few(9)).determined_by == (9, 5)
