"""The number of seeds that would decide: against simulated tests, and the section in its page."""

import numpy as np
import pytest
from old_vs_new_seeds import BEFORE, SECTION, losses_of, power, section, seeds_needed, with_section
from scipy.stats import ttest_1samp

PAGE = f"""# A page

{BEFORE}

## Every run

| way | seed | a | b | T | N | D | D/N | loss | forecast |
|---|---|---|---|---|---|---|---|---|---|
| new | 0 | 18 | 6 | 25 | 1k | 1M | 17 | 3.00 | |
| new | 1 | 18 | 6 | 25 | 1k | 1M | 17 | 3.01 | |
| naive | 0 | 18 | 6 | 25 | 1k | 1M | 17 | 3.04 | |
| naive | 1 | 18 | 6 | 25 | 1k | 1M | 17 | 3.03 | |
| naive | 2 | 18 | 6 | 25 | 1k | 1M | 17 | diverged | |

## Last
"""


def test_the_power_is_that_of_simulated_tests():
    rng = np.random.default_rng(0)
    drawn = rng.normal(0.02, 0.016, size=(4000, 7))

    share = np.mean(ttest_1samp(drawn, 0, axis=1).pvalue < 0.05)

    assert power(0.02, 0.016, 7) == pytest.approx(share, abs=0.02)


def test_the_number_is_the_least_that_reaches_the_power():
    n = seeds_needed(0.02, 0.016)

    assert power(0.02, 0.016, n) >= 0.8 > power(0.02, 0.016, n - 1)
    assert seeds_needed(0.0, 0.016) is None


def test_losses_are_read_from_the_page_and_the_section_replaces_itself():
    assert losses_of(PAGE)["naive"] == {0: (3.04, 25e12), 1: (3.03, 25e12)}
    once = with_section(PAGE, section(PAGE))

    assert once.index(SECTION) < once.index(BEFORE)
    assert "| naive | new | 2 | +0.0300 | 0.0141 |" in once
    assert with_section(once, section(once)) == once
