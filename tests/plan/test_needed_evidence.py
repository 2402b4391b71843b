"""The runs that a forecast needs: added to the evidence they remove the reason, and their cost is theirs."""

import math

import numpy as np
import pytest

from scalelab.laws.observations import Observations
from scalelab.plan.choose.needed_evidence import FACTOR, needed_evidence
from scalelab.study.study import study
from scalelab.study.verdict import TOO_FAR

E, A, B, ALPHA, BETA = 1.8, 480.0, 2100.0, 0.35, 0.37


def study_of(budgets, target, sizes=7, span=8.0):
    """The study of noise-free isoFLOP runs of a Chinchilla law."""
    rows = [
        (N, C / 6 / N, C) for C in budgets for N in 0.09 * C**0.5 * np.geomspace(span**-0.5, span**0.5, sizes)
    ]
    N, D, C = np.array(rows).T
    loss = E + A / N**ALPHA + B / D**BETA
    runs = Observations.of(N, D, loss, C=C, flops_planned=C)
    return study(runs, target_flops=target, param_count="total", replicates=0, laws=("chinchilla",))


EVIDENCE = (1e18, 3e18, 1e19, 3e19)


@pytest.mark.parametrize("target", [1e20, 2e21, 4e22, 1e26])
def test_with_the_named_budgets_the_reach_is_no_reason_any_more(target):
    found = needed_evidence(study_of(EVIDENCE, target), target)

    assert found.budgets[0] > 3e19
    assert target / TOO_FAR <= found.budgets[-1] < target
    ladder = np.array([3e19, *found.budgets])
    assert (ladder[1:] / ladder[:-1] <= FACTOR * (1 + 1e-9)).all()
    more = study_of((*EVIDENCE, *found.budgets), target)

    assert more.forecast.reach <= TOO_FAR


def test_sizes_surround_the_optimum_and_costs_are_summed():
    target = 4e22

    found = needed_evidence(study_of(EVIDENCE, target), target, flops_per_s=1e15, device="h100")

    low, high = found.n_params
    best = (ALPHA * A / BETA / B) ** (1 / (ALPHA + BETA)) * (found.budgets[0] / 6) ** (BETA / (ALPHA + BETA))
    assert found.sizes == 7
    assert low == pytest.approx(best / math.sqrt(8), rel=0.02)
    assert high > best
    assert found.flops == pytest.approx(7 * sum(found.budgets))
    assert found.seconds == pytest.approx(found.flops / 1e15)
    assert "on one h100" in str(found)
    assert "time unknown" in str(needed_evidence(study_of(EVIDENCE, target), target))


def test_many_budgets_are_written_as_a_range():
    text = str(needed_evidence(study_of(EVIDENCE, 1e28), 1e28))

    assert "more budgets from " in text
    assert "x apart" in text
