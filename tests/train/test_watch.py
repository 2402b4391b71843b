"""The bounds of a leap of the loss and of a straggler, worked out by hand."""

import math

import pytest

from scalelab.train.stability import Stability, StabilityMonitor, StragglerMonitor


@pytest.fixture
def watch():
    """A run whose losses lie .1 below and above 3: their median absolute deviation is .1."""
    watch = StabilityMonitor(Stability())
    for i in range(64):
        assert watch.judge(2.9 if i % 2 else 3.1, 1.0) == "go"
    return watch


@pytest.mark.parametrize(("loss", "bad"), [(4.18, 0), (4.20, 1)])
def test_a_leap_is_eight_normal_deviations_over_the_median(watch, loss, bad):
    """3 + 8 x 1.4826 x .1 = 4.186: a normal deviation is 1.4826 median absolute ones."""
    watch.judge(loss, 1.0)

    assert watch.bad_steps == bad


@pytest.mark.parametrize(("loss", "bad"), [(3.49, 0), (3.51, 1)])
def test_a_leap_of_a_quiet_run_is_half_a_nat(loss, bad):
    """Losses without any spread: 8 x 0, so the .5 nats decide."""
    watch = StabilityMonitor(Stability())
    for _ in range(64):
        watch.judge(3.0, 1.0)

    watch.judge(loss, 1.0)

    assert watch.bad_steps == bad


def test_the_third_bad_step_in_a_row_goes_back_and_a_good_one_forgives(watch):
    said = [watch.judge(loss, 1.0) for loss in (9.0, 9.0, 3.0, 9.0, 9.0, 9.0)]

    assert said == ["go", "go", "go", "go", "go", "back"]


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (3.0, math.nan), (3.0, math.inf)])
def test_no_number_is_skipped(watch, loss, norm):
    assert watch.judge(loss, norm) == "skip"


def test_a_straggler_takes_over_one_and_a_half_times_the_median_three_times_in_a_row():
    """Medians of 1, 1, 2 and x are 1.5 for x of 2 or more: 2.25 is just not too slow."""
    just, slow = StragglerMonitor(), StragglerMonitor()

    for _ in range(2):
        assert just.observe([1.0, 1.0, 2.0, 2.25]) == slow.observe([1.0, 1.0, 2.0, 2.28]) == {}

    assert just.observe([1.0, 1.0, 2.0, 2.25]) == {}
    assert slow.observe([1.0, 1.0, 2.0, 2.28]) == {3: pytest.approx(2.28 / 1.5)}
