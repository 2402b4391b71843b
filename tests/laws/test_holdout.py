"""The rolling origin: what was known then, asked for what came later."""

import numpy as np
import pytest

from scalelab.laws.base import Optimum
from scalelab.laws.forms.chinchilla import Chinchilla
from scalelab.laws.isoflop.law import IsoFlopLaw
from scalelab.laws.observations import Observations
from scalelab.study.holdout import TOLERANCE, HoldOut, HoldoutTrial, hold_out

LAWS = {"isoflop": IsoFlopLaw(), "chinchilla": Chinchilla()}


def record(fold, error, law="chinchilla"):
    return HoldoutTrial(law, 1e18, fold * 1e18, 10, 5, error, None, None)


def test_every_origin_is_asked_for_every_larger_budget(family):
    test = hold_out(family(noise=0.001), LAWS)

    asked = {name: {(t.origin, t.flops) for t in test.tests if t.law == name} for name in LAWS}
    assert asked["chinchilla"] == {(1e19, 3e19), (1e19, 1e20), (3e19, 1e20)}
    assert asked["isoflop"] == {(3e19, 1e20)}  # three minima show no floor
    assert test.farthest == pytest.approx(10)


def test_what_was_fitted_then_saw_nothing_of_what_came_later(family):
    runs = family(noise=0.001)
    late = runs.flops_planned == 1e20
    ruined = Observations.of(
        runs.N, runs.D, np.where(late, 1.5 * runs.L, runs.L), flops_planned=runs.flops_planned
    )

    honest, spoiled = hold_out(runs, LAWS), hold_out(ruined, LAWS)

    def early(test):
        return [t.error for t in test.tests if t.flops == 3e19]

    assert early(honest) == early(spoiled)
    assert spoiled.last["chinchilla"].error > 0.3


def test_errors_are_those_of_a_fit_made_by_hand(family):
    runs = family(noise=0.002)
    train, unseen = runs.take(runs.flops_planned <= 3e19), runs.take(runs.flops_planned == 1e20)

    last = hold_out(runs, LAWS).last["chinchilla"]

    expected = Chinchilla().fit(train).expected(unseen)
    assert last.error == pytest.approx(np.mean(np.abs(expected / unseen.L - 1)))
    assert (last.n_train, last.n_test) == (28, 7)
    assert last.fold == pytest.approx(10 / 3)


def test_trust_ends_where_the_error_reaches_the_tolerance():
    """Errors of .2% at e-fold and .4% at e^2-fold grow as .2% ln k: 1% at e^5, capped at e^4."""
    e = float(np.e)

    test = HoldOut("", (record(e, 0.002), record(e**2, 0.004)), {})

    assert test.growth("chinchilla") == pytest.approx(0.002)
    assert test.trusted_fold("chinchilla") == pytest.approx(e**4)
    worse = HoldOut("", (record(e, 2 * TOLERANCE),), {})
    assert worse.trusted_fold("chinchilla") == pytest.approx(e**0.5)
    assert test.trusted_fold("isoflop") is None


def test_without_budgets_origins_roll_over_compute(olmo):
    test = hold_out(olmo.take(np.arange(16)), {"chinchilla": Chinchilla()})

    assert len({t.origin for t in test.tests}) >= 4
    assert all(t.fold > 1 for t in test.tests)
    assert test.trusted_fold("chinchilla") < 10


def test_two_budgets_are_too_few(family):
    assert "2 budget(s)" in hold_out(family(budgets=(1e18, 1e19)), LAWS)


def test_three_budgets_leave_one_test(family):
    test = hold_out(family(budgets=(1e18, 3e18, 1e19), noise=0.001), LAWS)

    assert {(t.origin, t.flops) for t in test.tests} == {(3e18, 1e19)}


@pytest.mark.parametrize(("N", "L"), [(1e-200, 2.0), (np.inf, 2.0), (1e9, np.nan), (1e9, np.inf)])
def test_an_optimum_that_cannot_be_written_down_is_no_test(family, monkeypatch, N, L):
    """A size 1e-200 has an error of -100%, whose logarithm the verdict would take."""
    kind = type(LAWS["chinchilla"].fit(family(noise=0.001)))
    monkeypatch.setattr(kind, "optimum", lambda self, C: Optimum(C, N, 1e10, L))

    test = hold_out(family(noise=0.001), {"chinchilla": LAWS["chinchilla"]})

    assert "no optimum at the budget held out" in test
