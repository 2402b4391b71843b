"""Quantiles of weighted values against the same values written out as often as they count."""

import numpy as np
import pytest

from scalelab.laws.weighted_quantile import weighted_median, weighted_quantile


def test_a_weighted_quantile_counts_weight():
    values, weights = np.array([3.0, 1.0, 2.0]), np.array([1.0, 1.0, 2.0])

    assert [weighted_quantile(values, weights, level) for level in (0.25, 0.5, 0.75, 0.76)] == [1, 2, 2, 3]


@pytest.mark.parametrize("seed", range(5))
def test_a_weight_counts_as_that_many_equal_values(seed):
    rng = np.random.default_rng(seed)
    values, weight = rng.standard_normal(12), rng.integers(0, 4, 12)
    written_out = np.repeat(values, weight)

    assert weighted_median(values, weight.astype(float)) == pytest.approx(np.median(written_out), rel=1e-12)
    for level in (0.1, 0.5, 0.83):
        found = weighted_quantile(values, 0.1 * weight, level)
        assert found == np.quantile(written_out, level, method="inverted_cdf")


def test_rounding_of_the_sum_moves_no_quantile():
    """Ten times .1 is less than 1."""
    assert weighted_quantile(np.arange(10.0), np.full(10, 0.1), 1.0) == 9
    assert weighted_median(np.arange(10.0), np.full(10, 0.1)) == 4.5
