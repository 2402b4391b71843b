"""Schedules: warm up, come down, and follow the run's own length."""

import math

import pytest

from scalelab.train.schedule import WSD, Cosine

SCHEDULES = {
    "linear to zero": WSD(warmup=0.1, cooldown=0.9),
    "stable": WSD(warmup=0.05, cooldown=0.2),
    "sqrt": WSD(warmup=0.1, cooldown=0.2, shape="sqrt"),
    "cosine": Cosine(warmup=0.1),
    "no warmup": WSD(warmup=0.0, cooldown=0.5),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("n_steps", [1, 2, 7, 100, 1013])
def test_factors_lie_between_zero_and_one(name, n_steps):
    factors = [SCHEDULES[name].factor(i, n_steps) for i in range(n_steps)]

    assert all(0 < f <= 1 or (f == 0 and i == n_steps) for i, f in enumerate(factors))
    assert all(math.isfinite(f) for f in factors)


@pytest.mark.parametrize("name", SCHEDULES)
def test_rises_then_never_rises_again(name):
    factors = [SCHEDULES[name].factor(i, 1000) for i in range(1000)]
    top = factors.index(max(factors))

    assert factors[:top] == sorted(factors[:top])
    assert factors[top:] == sorted(factors[top:], reverse=True)
    assert max(factors) == 1.0
    assert factors[-1] < 0.01


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_longer_run_has_the_same_shape(name):
    schedule = SCHEDULES[name]

    for share in (0.03, 0.3, 0.85, 0.95):
        short, long = (schedule.factor(int(share * 1000), 1000), schedule.factor(int(share * 8000), 8000))
        assert short == pytest.approx(long, abs=0.04)


def test_sqrt_cooldown_is_one_minus_the_root_of_the_share_done():
    schedule = WSD(warmup=0.0, cooldown=0.5, shape="sqrt")

    # 1000 steps cool over the last 500; at step 625 a quarter of them is done.
    assert schedule.factor(625, 1000) == pytest.approx(1 - math.sqrt(0.25))


def test_half_of_a_cosine_is_half():
    assert Cosine(warmup=0.0).factor(500, 1000) == pytest.approx(0.5)
    assert Cosine(warmup=0.0, final=0.2).factor(500, 1000) == pytest.approx(0.6)


def test_overlapping_phases_are_refused():
    with pytest.raises(ValueError, match="overlap: together over 1"):
        WSD(warmup=0.3, cooldown=0.8)


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        # 10 steps: 2 of warmup, 4 at the peak, 4 that fall by a quarter.
        (WSD(warmup=0.2, cooldown=0.4), [0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25]),
        # No stable phase: 1/2, 1, then 8/8, 7/8, ... of what is left.
        (WSD(warmup=0.2, cooldown=0.8), [0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
        # 1 - sqrt of the share done: 0, 1/4, 2/4, 3/4 (Haegele et al. 2024, eq. 1).
        (
            WSD(warmup=0.2, cooldown=0.4, shape="sqrt"),
            [0.5, 1, 1, 1, 1, 1, 1, 0.5, 1 - math.sqrt(0.5), 1 - math.sqrt(0.75)],
        ),
        # cos of 0, 45, 90, 135 degrees from the end of the warmup on.
        (Cosine(warmup=0.2), [0.5, 1, 1, *((1 + math.cos(math.pi * i / 8)) / 2 for i in range(1, 8))]),
        # The same between 1 and a fifth.
        (
            Cosine(warmup=0.2, final=0.2),
            [0.5, 1, 1, *(0.2 + 0.4 * (1 + math.cos(math.pi * i / 8)) for i in range(1, 8))],
        ),
    ],
    ids=["wsd", "linear to zero", "sqrt", "cosine", "cosine to a fifth"],
)
def test_every_factor_of_ten_steps_by_hand(schedule, wanted):
    factors = [schedule.factor(step, 10) for step in range(10)]

    assert factors == pytest.approx(wanted)


def test_branches_have_the_same_rates_until_they_leave_their_trunk():
    schedule = WSD(warmup=0.1, cooldown=0.3, shape="sqrt", trunk=True).branch(100)
    trunk = schedule.constant()

    for n_steps in (100, 137, 400):
        end = schedule.stable_end(n_steps)
        assert end == n_steps - round(0.3 * n_steps)
        factors = [schedule.factor(step, n_steps) for step in range(n_steps)]
        assert factors[:end] == [trunk.factor(step, 280) for step in range(end)]
        assert factors[9] == factors[end - 1] == 1.0 > factors[end + 1] > factors[-1]
        assert factors[0] == 0.1  # 10 steps of warmup in each


@pytest.mark.parametrize(
    ("schedule", "problem"),
    [
        ({"trunk": True, "cooldown": 0.9}, "leave no stable phase, so there is no trunk to share"),
        ({"trunk": True}, "states warmup_steps"),
        ({"warmup_steps": 31, "cooldown": 0.5}, "a warmup of 31 steps does not fit into the 30 steps"),
    ],
)
def test_what_cannot_be_a_branch_is_refused(tiny_spec, schedule, problem):
    with pytest.raises(ValueError, match=problem):
        tiny_spec(schedule={"kind": "wsd", **schedule})
