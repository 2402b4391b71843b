"""Calibrated widths: what they grow with, the levels that they have, and what a forecast makes of them."""

import numpy as np
import pytest

from scalelab.laws.uncertainty import conformal
from scalelab.laws.uncertainty.conformal import LEVELS, calibrated_width, loss_scale, quantile, size_scale


def width(**settings):
    usual = {
        "level": 0.8,
        "reach": 10.0,
        "rate": 0.006,
        "loss_spread": 0.002,
        "size_spread": 0.05,
        "origins": 5,
    }
    return calibrated_width(**usual | settings)


def test_scales_are_those_of_the_header():
    """By hand: (.003 (.006 ln 11 + .002) (.01 ln 11))^(1/3), and hypot(.05, .03 ln 11)."""
    ahead = np.log(11)

    assert loss_scale(0.002, 0.006, 10.0) == pytest.approx(
        (0.003 * (0.006 * ahead + 0.002) * 0.01 * ahead) ** (1 / 3)
    )
    assert size_scale(0.05, 10.0) == pytest.approx(np.sqrt(0.05**2 + (0.03 * ahead) ** 2))


@pytest.mark.parametrize(
    ("name", "less", "more"),
    [("reach", 5.0, 50.0), ("rate", 0.002, 0.02), ("loss_spread", 0.0, 0.01), ("level", 0.5, 0.95)],
)
def test_the_width_of_the_loss_grows_with_each(name, less, more):
    assert width(**{name: less}).loss < width(**{name: more}).loss


def test_the_width_is_not_zero_inside_the_evidence():
    assert 0.0005 < width(reach=1.0).loss < width(reach=2.0).loss
    assert width(reach=0.1).loss > 0
    assert width(reach=0.1).n_params >= 0.05


@pytest.mark.parametrize("quantiles", [conformal.LOSS_QUANTILES, conformal.SIZE_QUANTILES])
def test_levels_between_the_frozen_ones_are_interpolated_and_others_refused(quantiles):
    assert len(quantiles) == len(LEVELS)
    assert list(quantiles) == sorted(quantiles)
    for level, value in zip(LEVELS, quantiles, strict=True):
        assert quantile(quantiles, level) == pytest.approx(value)
    assert quantile(quantiles, 0.85) == pytest.approx((quantiles[3] + quantiles[4]) / 2)
    assert quantile(quantiles, 0.49) is quantile(quantiles, 0.96) is None
    assert width(level=0.99) is None


def test_the_expected_error_does_not_depend_on_the_level():
    assert width(level=0.5).expected_error == pytest.approx(width(level=0.95).expected_error)
    assert width(level=0.8).expected_error == pytest.approx(width(level=0.8).loss / 1.5)


def test_it_stands_alone_from_three_origins():
    assert [width(origins=k).alone for k in (0, 2, 3)] == [False, False, True]


def test_a_table_without_origins_has_the_typical_rate():
    assert width(rate=None, origins=0).loss == pytest.approx(width(rate=conformal.TYPICAL_RATE).loss)
