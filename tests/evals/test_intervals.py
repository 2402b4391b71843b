"""Intervals of evaluations against published values and closed forms."""

import math

import numpy as np
import pytest

from scalelab.errors import ConfigError
from scalelab.evals.bootstrap import check_replicates, interval
from scalelab.evals.loss.perplexity import _interval
from scalelab.evals.tasks.scores import mean, share


@pytest.mark.parametrize(
    ("right", "of", "low", "high"),
    [
        (0, 10, 0.0, 0.27753),  # z^2 / (n + z^2) = 3.84146 / 13.84146
        (8, 10, 0.49016, 0.94332),
        (10, 10, 0.72247, 1.0),
        # (.5 + 1.92073 / 100) / 1.0384146 -+ 1.95996 / 1.0384146 sqrt(.0025 + 3.84146 / 40000)
        (50, 100, 0.40383, 0.59617),
    ],
)
def test_a_share_has_wilsons_interval(right, of, low, high):
    """Wilson 1927: (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), z = 1.95996."""
    found = share(np.arange(of) < right)

    assert found.value == right / of
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-5)


def test_a_standard_error_divides_by_n_less_one():
    """Values 1, 2, 3, 6: squares 14 over 3, over 4."""
    found = mean(np.array([1.0, 2.0, 3.0, 6.0]))

    assert found.value == 3.0
    assert found.standard_error == pytest.approx(math.sqrt(14 / 3 / 4))


def test_a_mean_has_an_interval_of_1_96_standard_errors_to_either_side():
    """400 rows: the mean is normal. An end of 2000 replicates scatters by 3% of that width; 10%
    would be three of these, and 90% in place of 95% is 16%.
    """
    values = np.random.default_rng(1).standard_normal(400)

    found = mean(values)

    half = 1.96 * values.std() / 20
    assert found.high - found.value == pytest.approx(half, rel=0.1)
    assert found.value - found.low == pytest.approx(half, rel=0.1)


@pytest.mark.parametrize(("level", "low", "high"), [(0.9, 5, 95), (0.8, 10, 90), (0.5, 25, 75)])
def test_a_bootstraps_interval_leaves_out_as_much_on_either_side(level, low, high):
    draws = np.stack([np.arange(101.0), 1000 - np.arange(101.0)], axis=1)

    found = interval(draws, level)

    assert found.shape == (2, 2)
    assert found[0] == pytest.approx([low, high])
    assert found[1] == pytest.approx([1000 - high, 1000 - low])


def test_ten_replicates_lie_beyond_each_end():
    check_replicates(0.95, 400)
    check_replicates(0.9, 200)

    with pytest.raises(ConfigError, match=r"399 replicates leave 10.0 beyond each end"):
        check_replicates(0.95, 399)


@pytest.mark.parametrize(("n", "quantile"), [(10, 2.2622), (20, 2.0930), (100, 1.9842)])
def test_few_documents_have_the_quantile_of_student_and_their_lost_degree(n, quantile):
    """The percentile beyond which a normal leaves t_(.975, n-1) sqrt(n / (n - 1)), by tables."""
    tail = 0.5 * math.erfc(quantile * math.sqrt(n / (n - 1)) / math.sqrt(2))

    low, high = _interval(np.arange(10_001.0), n)

    assert (low, high) == pytest.approx((10_000 * tail, 10_000 * (1 - tail)), abs=0.5)
