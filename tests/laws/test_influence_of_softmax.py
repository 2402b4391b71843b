"""Runs that the soft-max law and its average hang on: refits without them, outliers, clean families."""

from dataclasses import replace

import numpy as np
import pytest

from scalelab.laws import levenberg
from scalelab.laws.averaged.law import Averaged
from scalelab.laws.forms.softmax import Softmax
from scalelab.laws.uncertainty import refits
from scalelab.laws.uncertainty.influence import influence, report_influence
from scalelab.study.simulate.designs import GaussianNoise, SimulatedIsoFlop
from scalelab.study.simulate.simulation import simulate


def simulated(seed, law="chinchilla"):
    return simulate(law, None, SimulatedIsoFlop(), GaussianNoise(0.003), seed)


def spoiled(runs, rows, factor):
    L = runs.L.copy()
    L[rows] *= factor
    return replace(runs, L=L)


@pytest.fixture(scope="module")
def fit():
    return Averaged().fit(simulated(3))


def test_a_shift_is_that_of_a_search_from_every_start_without_the_run():
    """With the prior of the fit, and the other runs that count."""
    fit = Softmax().fit(simulated(3))

    for one in fit.influence():
        kept = (~np.isin(fit.runs.run, one.runs)).astype(float)
        starts = fit.surface.starts()[::3]
        ends = levenberg.descend(
            fit.surface,
            starts,
            delta=fit.law.huber_delta,
            weights=np.tile(kept, (len(starts), 1)),
            prior=fit.prior,
            steps=1000,
        )
        there = fit.law.exponents(fit.surface.constants(ends.theta[ends.order[:1]]))
        assert float(there["a"][0]) - fit.exponents["a"] == pytest.approx(one.shifts["a"], abs=2e-5)


def test_the_average_moves_by_the_weighted_shifts_of_its_settings(fit):
    (one, *_) = fit.influence()
    alone = [
        next(each for each in influence(m, len(m.runs)) if each.runs == one.runs).shifts["a"]
        for m in fit.members
    ]

    assert one.shifts["a"] == pytest.approx(float(fit.weights @ alone), abs=1e-7)
    assert one.shifts["b"] == pytest.approx(-one.shifts["a"], abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_clean_families_have_no_outliers_and_no_telling_run(seed):
    found = Averaged().quick().fit(simulated(seed)).influence()

    assert {one.kind for one in found} == {"run"}
    assert not any(one.telling for one in found)


def test_runs_that_are_off_the_law_are_named(fit):
    runs = simulated(3)
    counted = np.flatnonzero(np.isin(runs.run, fit.runs.run))
    bad = counted[[2, 9]]

    fit = Averaged().fit(spoiled(runs, bad, 1.05))
    first = fit.influence()[0]

    assert first.kind == "outliers"
    assert set(first.runs) == {str(runs.run[row]) for row in bad}
    assert "2 run(s) are off the law" in report_influence((first,), fit)[0]


def test_a_newton_step_with_the_prior_stands_for_a_refit():
    """Of 120 runs that count: with few, Huber's penalty has corners that one step does not see."""
    runs = simulate("chinchilla", None, SimulatedIsoFlop(sizes=40), GaussianNoise(0.003), 1)
    fit = Averaged().quick().fit(runs)
    found = fit.refits
    members = [np.array([k]) for k in range(len(fit.runs))]
    everyone = np.ones(len(fit.runs), bool)

    def weights(first, last):
        return 1.0 - np.eye(len(fit.runs))[first:last]

    exact = found.values(found.again(np.tile(found.place, (len(members), 1)), weights))["a"]
    step = found.values(found.step_without(found.place, members, everyone))["a"]
    without = [replace(part, prior=None) for part in found.parts]
    bare = replace(found, parts=without)
    unheld = bare.values(bare.step_without(found.place, members, everyone))["a"]

    here = fit.exponents["a"]
    assert np.corrcoef(exact - here, step - here)[0, 1] > 0.9
    assert np.mean(np.abs(step - exact)) < 0.7 * np.mean(np.abs(unheld - exact))


def test_a_setting_without_weight_takes_no_part(fit):
    weights = np.array([0.5, 0.0, 0.5, 0.0])

    found = replace(fit, weights=weights).refits

    assert found.searches == 2
    assert len(found.place) == 12
    assert found.values(found.place[None])["a"][0] == pytest.approx(
        float(weights @ [m.exponents["a"] for m in fit.members])
    )


def test_a_fit_that_is_not_to_be_relied_on_has_no_influence(fit):
    solver = replace(fit.members[0].solver, converged=False)
    broken = replace(fit, members=tuple(replace(m, solver=solver) for m in fit.members))

    assert broken.influence() is None


def test_the_errors_are_those_of_the_average(fit):
    error, share = fit.refits.errors(fit.refits.place)

    assert error == pytest.approx(np.log(fit.runs.L / fit.expected(fit.runs)), abs=1e-12)
    assert share is error
    assert isinstance(fit.refits.parts[0], refits.SurfaceRefits)
