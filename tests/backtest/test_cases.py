"""The split rule: which runs are forecast from which, and the best sizes that budgets show."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from scalelab.backtest.cases import effective_tokens, loss_cases, observed_sizes, size_cases
from scalelab.backtest.tables import read_tables
from scalelab.laws.observations import Observations


def test_evidence_is_cheaper_than_what_is_asked(table_of):
    cases = loss_cases(table_of())

    assert [case.label for case in cases] == ["top 1, r 2", "top 1, r 30", "top 8, r 2", "top 8, r 30"]
    for case in cases:
        assert case.evidence.C.max() < case.asked.C.min()
        assert len(case.evidence) >= 8
        assert len(case.asked) <= 5
    assert cases[0].reach == pytest.approx(10)
    assert cases[1].reach == pytest.approx(100)


def test_the_lowest_losses_near_the_largest_compute_are_asked_for(table_of):
    table = table_of(sizes=9)

    first = loss_cases(table)[0]

    most = table.runs.C.max()
    assert sorted(first.asked.L) == sorted(table.runs.L[most / 5 < table.runs.C])[:5]


def test_equal_cases_are_one(table_of):
    cases = loss_cases(table_of())

    keys = {(tuple(case.evidence.run), tuple(sorted(case.asked.run))) for case in cases}
    assert len(keys) == len(cases)


def test_a_thin_table_has_no_case(table_of):
    D = np.geomspace(1e8, 1e12, 20)
    two_sizes = Observations.of(np.tile([1e7, 2e7], 10), D, 3 - 0.01 * np.log(D))

    assert loss_cases(table_of(budgets=(1e18, 1e20))) == []  # five runs at most
    assert loss_cases(replace(table_of(), runs=two_sizes, held_out=np.zeros(20, bool))) == []


def test_the_vertex_of_an_exact_parabola_is_the_best_size():
    x = np.linspace(-1, 1, 9)
    N = 3e8 * np.exp(x)
    L = 2.5 * np.exp(0.03 * (x - 0.2) ** 2)
    runs = Observations.of(N, 1e19 / (6 * N), L, C=np.full(9, 1e19))

    (best,) = observed_sizes(runs)

    assert best.n_params == pytest.approx(3e8 * np.exp(0.2))
    assert best.curvature == pytest.approx(0.03)
    assert best.flops == pytest.approx(1e19)


@pytest.mark.parametrize("shape", ["hill", "edge", "few"])
def test_a_budget_that_shows_no_best_size_has_none(shape):
    x = np.linspace(-1, 1, 6 if shape == "few" else 9)
    N = 3e8 * np.exp(x)
    L = 2.5 + {"hill": -0.03 * x**2, "edge": 0.03 * (x - 2) ** 2, "few": 0.03 * x**2}[shape]

    assert observed_sizes(Observations.of(N, 1e19 / (6 * N), L)) == []


def test_published_budgets_take_the_place_of_found_ones(table_of):
    runs = table_of(sizes=9, noise=0.0).runs

    assert [b.flops for b in observed_sizes(runs)] == pytest.approx([1e17, 1e18, 1e19, 1e20, 1e21])
    assert [b.flops for b in observed_sizes(runs, (1.05e19, 5e19))] == pytest.approx([1e19])


def test_planned_budgets_of_an_unknown_table_are_its_budgets(table_of):
    table = table_of(sizes=9, noise=0.0)
    planned = np.where(table.runs.C > 5e18, table.runs.C, np.nan)

    cases = size_cases(replace(table, runs=replace(table.runs, flops_planned=planned)))

    assert sorted({float(f"{b.flops:.6g}") for case in cases for b in case.budgets}) == [1e19, 1e20, 1e21]


def test_best_sizes_of_equal_evidence_are_one_case(table_of):
    cases = size_cases(table_of(sizes=9, noise=0.0))

    evidence = [tuple(case.evidence.run) for case in cases]
    assert len(set(evidence)) == len(evidence)
    assert all((case.size_reach > 1).all() and case.decline > 0 for case in cases)
    assert max(len(case.budgets) for case in cases) > 1


def test_effective_tokens_are_those_of_the_publication():
    assert effective_tokens(4e9, np.array([4e9]), 15.0) == pytest.approx(4e9)
    assert effective_tokens(16e9, 4e9, 15.0) == pytest.approx(4e9 + 4e9 * 15 * (1 - np.exp(-3 / 15)))
    assert effective_tokens(1e15, 4e9, 15.0) == pytest.approx(16 * 4e9)


def test_the_public_tables_give_the_targets_of_the_rule(shared):
    found = read_tables(shared)

    cases = [case for table in found.tables for case in loss_cases(table)]
    reach = np.concatenate([case.reach for case in cases])
    sizes = Counter(case.table for table in found.tables for case in size_cases(table) for _ in case.budgets)

    assert (len(cases), len(reach)) == (76, 283)
    assert [np.sum((reach > low) & (reach <= high)) for low, high in ((0, 15), (15, 150), (150, 1e9))] == [
        174,
        102,
        7,
    ]
    assert len({case.family for case in cases}) == 6
    assert sizes == {"farseer": 73, "hoffmann": 24, "muen_one_epoch": 2}
    assert {each.name for each in found.left_out} == {"moe_routed", "domain_mixture"}
