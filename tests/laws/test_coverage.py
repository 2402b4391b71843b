"""Intervals cover the truth about as often as they say, by the bootstrap and by profile likelihood.

60 families with .4% noise, each fitted once for all tests. Binomial spread alone is 4 points; the bounds
are 2.5 of these.
"""

import numpy as np
import pytest

from scalelab.laws.forms.chinchilla import Chinchilla
from scalelab.laws.isoflop.law import IsoFlopLaw
from scalelab.laws.uncertainty.bootstrap import percentile
from scalelab.laws.uncertainty.profile_likelihood import profile

C, SLOPE = 1e21, 0.37 / 0.72
BEST_N = (0.35 * 480 / (0.37 * 2100)) ** (1 / 0.72) * (C / 6) ** SLOPE
"""Hoffmann et al. 2022, eq. 4, of the truth in conftest.py."""
LAWS = {"isoflop": IsoFlopLaw(), "chinchilla": Chinchilla()}


@pytest.fixture(scope="module")
def fits(family):
    """A function that gives the fits of a law to all families."""
    kept = {}

    def of(name):
        if name not in kept:
            budgets = (1e18, 3e18, 1e19, 3e19)
            families = (family(budgets=budgets, noise=0.004, seed=seed, drift=0.2) for seed in range(60))
            kept[name] = [LAWS[name].fit(runs) for runs in families]
        return kept[name]

    return of


@pytest.mark.parametrize("name", LAWS)
def test_a_90_percent_interval_covers_the_truth_about_as_often(fits, name):
    hits = []
    for seed, fit in enumerate(fits(name)):
        drawn = fit.replicates(250, seed)
        ends = [percentile(v, 0.9) for v in (drawn.values["a"], drawn.optimum(C).N)]
        hits.append([low <= true <= high for (low, high), true in zip(ends, (SLOPE, BEST_N), strict=True)])

    covered = np.mean(hits, axis=0)

    assert np.all((covered >= 0.80) & (covered <= 0.98)), covered


def test_a_profile_covers_the_truth_about_as_often_as_it_says(fits):
    def slope(constants):
        return constants["beta"] / (constants["alpha"] + constants["beta"])

    ends = [profile(fit, slope, 0.9) for fit in fits("chinchilla")]

    covered = np.mean([low <= SLOPE <= high for low, high in ends])
    assert 0.80 <= covered <= 0.98, covered
