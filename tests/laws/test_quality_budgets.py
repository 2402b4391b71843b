"""Budgets are what their runs spent: rounded labels, labels that make no slices, no labels at all."""

from dataclasses import replace

import numpy as np
import pytest

from scalelab.laws.isoflop.law import IsoFlopLaw
from scalelab.laws.observations import Observations
from scalelab.study.quality.control import quality_control

BUDGETS = (1e18, 10**18.5, 1e19, 10**19.5, 1e20, 10**20.5, 1e21)
"""Half decades: every second one is written 3e18 to one digit, 5% below what was spent."""


@pytest.fixture
def runs(family):
    return family(budgets=BUDGETS, noise=0.001, seed=1)


def one_digit(values):
    return np.array([float(f"{value:.0e}") for value in values])


def optimum(runs):
    return float(np.ravel(IsoFlopLaw().fit(runs).optimum(1e22).N)[0])


def found(runs, code):
    (one,) = [f for f in quality_control(runs)[1] if f.code == code]
    return one


def test_a_rounded_budget_is_what_its_runs_spent(runs):
    rounded = replace(runs, flops_planned=one_digit(runs.flops_planned))

    kept, findings = quality_control(rounded)

    assert len(kept) == len(runs)
    assert [f.code for f in findings] == ["budget"]
    assert "3e18 is 3.16e18" in findings[0].reason
    assert not findings[0].excluded
    assert kept.budgets == pytest.approx(BUDGETS)
    assert optimum(kept) == pytest.approx(optimum(runs))


def test_a_run_that_departs_from_a_rounded_budget_is_left_out(runs):
    D = runs.D * np.where(np.arange(len(runs)) == 9, 1.5, 1)
    rounded = Observations.of(runs.N, D, runs.L, flops_planned=one_digit(runs.flops_planned))

    kept, _ = quality_control(rounded)

    assert set(rounded.run) - set(kept.run) == {"row 9"}
    assert "spent 4.74e18 FLOPs, planned 3.16e18" in found(rounded, "spent").reason
    assert kept.budgets == pytest.approx(BUDGETS)


def test_a_head_counted_in_the_flops_is_no_rounded_budget(runs):
    """Much in small models and little in large ones: the size explains it, and not the label."""
    exact = replace(runs, C=runs.C * (1 + 1e8 / runs.N))

    kept, findings = quality_control(exact)

    assert len(kept) == len(runs)
    assert [f.code for f in findings] == ["another count"]
    assert list(kept.budgets) == list(runs.budgets)


def test_a_size_that_explains_the_compute_leaves_the_labels_as_they_are(runs):
    """No count is constant within a label: N lacks an embedding, the FLOPs hold attention."""
    other = replace(runs, C=runs.C * (1 + 2e8 / runs.N**0.97), N=runs.N - 2e6)

    kept, findings = quality_control(other)

    assert len(kept) == len(runs)
    assert "budget" not in [f.code for f in findings]
    assert list(kept.budgets) == list(runs.budgets)


def test_labels_that_differ_in_their_last_digits_are_one_budget(runs):
    digits = np.where(np.arange(len(runs)) % 2, 1, 1 + 3e-4)

    kept, findings = quality_control(replace(runs, flops_planned=runs.flops_planned * digits))

    assert findings == ()
    assert len(kept.budgets) == len(BUDGETS)


@pytest.mark.parametrize("labels", ["none", "of each run"])
def test_budgets_are_found_by_the_compute_spent(runs, labels):
    noise = np.exp(0.02 * np.random.default_rng(3).standard_normal(len(runs)))
    planned = np.full(len(runs), np.nan) if labels == "none" else runs.C * noise
    bare = replace(runs, flops_planned=planned)

    kept, findings = quality_control(bare)

    assert [f.code for f in findings] == ["budgets found"]
    assert kept.budgets == pytest.approx(BUDGETS)
    assert optimum(kept) == pytest.approx(optimum(runs))
    assert ("49 values for 49 runs" in findings[0].reason) == (labels != "none")


def test_budgets_are_found_though_each_run_missed_its_own_a_little(runs):
    """Whole steps: the compute of a slice scatters by a few percent."""
    steps = np.exp(np.random.default_rng(3).uniform(-0.03, 0.03, len(runs)))
    bare = Observations.of(runs.N, runs.D * steps, runs.L)

    kept, _ = quality_control(bare)

    assert kept.budgets == pytest.approx(BUDGETS, rel=0.03)
    assert optimum(kept) == pytest.approx(optimum(runs), rel=0.02)


def test_budgets_in_6nd_are_found_where_the_flops_hold_a_head(runs):
    bare = replace(runs, C=runs.C * (1 + 1e8 / runs.N), flops_planned=np.full(len(runs), np.nan))

    kept, findings = quality_control(bare)

    assert len(kept) == len(runs)
    assert "budgets found" in [f.code for f in findings]
    assert kept.budgets == pytest.approx(BUDGETS)


def test_a_scatter_of_sizes_and_tokens_has_no_budgets():
    rng = np.random.default_rng(0)
    N, D = np.exp(rng.uniform(np.log(1e7), np.log(1e10), (2, 300)))
    L = 1.8 + 480 / N**0.35 + 2100 / (20 * D) ** 0.37

    kept, _ = quality_control(Observations.of(N, 20 * D, L))

    assert not kept.budgets.size


def test_a_small_grid_of_sizes_and_tokens_has_no_budgets():
    """Its diagonals have equal compute, and its corners belong to none."""
    N, D = (x.ravel() for x in np.meshgrid(1e7 * 2.0 ** np.arange(8), 1e9 * 2.0 ** np.arange(8)))

    kept, _ = quality_control(Observations.of(N, D, 1.8 + 480 / N**0.35 + 2100 / D**0.37))

    assert not kept.budgets.size


def test_runs_without_a_budget_stay_without_one(runs):
    planned = np.where(np.arange(len(runs)) < 3, np.nan, runs.flops_planned)

    kept, _ = quality_control(replace(runs, flops_planned=planned))

    assert np.isnan(kept.flops_planned[:3]).all()
