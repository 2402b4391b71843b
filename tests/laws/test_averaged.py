"""The average of soft-max laws: weights from rolling origins, the rate of the error, what it answers."""

import numpy as np
import pytest

from scalelab.errors import FitError
from scalelab.laws.averaged import origins
from scalelab.laws.averaged.law import Averaged
from scalelab.laws.averaged.origins import Origin
from scalelab.laws.forms.softmax import Softmax
from scalelab.laws.observations import Observations

CONSTANTS = {"E": 1.6, "A": 150.0, "B": 70.0, "alpha_N": 0.26, "alpha_D": 0.2, "k": 0.5}


@pytest.fixture(scope="module")
def runs():
    N, D = (part.ravel() for part in np.meshgrid(np.geomspace(2e7, 2e9, 7), np.geomspace(1e9, 2e11, 7)))
    noise = 0.004 * np.random.default_rng(0).standard_normal(N.size)
    return Observations.of(N, D, Softmax().loss(CONSTANTS, N=N, D=D) * np.exp(noise))


@pytest.fixture(scope="module")
def fit(runs):
    return Averaged().fit(runs)


def origin(*errors, reach=3.0):
    return Origin(1e18, 20, np.full(len(errors[0]), reach), np.array(errors, float))


def test_log_losses_are_averaged(fit):
    each = np.array([np.log(member.loss_at(1e10, 1e12)) for member in fit.members])

    assert np.log(fit.loss_at(1e10, 1e12)) == pytest.approx(float(fit.weights @ each), rel=1e-12)
    assert fit.weights.sum() == pytest.approx(1)


def test_the_better_setting_has_the_larger_weight():
    """Twice the error of the best has 1/e of its weight."""
    found = origins.weights((origin([0.01, -0.01], [0.02, 0.02]),), 2)

    assert found[1] / found[0] == pytest.approx(np.exp(-1), rel=1e-6)


def test_a_harder_table_does_not_change_the_weights():
    easy = origins.weights((origin([0.001], [0.002], [0.004]),), 3)

    assert origins.weights((origin([0.1], [0.2], [0.4]),), 3) == pytest.approx(easy, rel=1e-5)


def test_settings_count_the_same_without_origins():
    assert origins.weights((), 4) == pytest.approx(np.full(4, 0.25))
    assert origins.rate((), 4) is None


def test_no_origin_takes_part_in_the_weights_that_judge_it():
    """Each setting is perfect at one origin: the other origin gives its weight to the wrong one."""
    two = (origin([0.0], [0.04]), origin([0.04], [0.0]))

    found = origins.rate(two, 2)

    assert found == pytest.approx(0.04 / np.log(4), rel=1e-3)


def test_origins_are_fitted_to_less_and_asked_for_more(runs, fit):
    assert len(fit.origins) >= 3
    for test in fit.origins:
        known = runs.take(test.flops * (1 + 1e-9) >= runs.C)
        assert test.count == len(known)
        assert np.all(test.reach > 1)
        assert test.errors.shape == (4, len(test.reach))
    assert [o.flops for o in fit.origins] == sorted((o.flops for o in fit.origins), reverse=True)


def test_origins_hold_what_the_settings_predict(runs, fit):
    """Written again: the first setting, fitted to the runs up to the first origin."""
    test = fit.origins[0]
    train = test.flops * (1 + 1e-9) >= runs.C
    again = fit.law.settings[0].fit(runs.take(train))
    far = runs.take(~train & (runs.C.max() / origins.NEAR < runs.C))
    best = far.take(np.argsort(far.L, kind="stable")[: origins.ASKED])
    expected = np.sort(np.log(again.loss_at(best.N, best.D) / best.L))

    assert np.sort(test.errors[0]) == pytest.approx(expected, abs=1e-6)


def test_the_quick_form_has_equal_weights(runs, fit):
    quick = Averaged().quick().fit(runs)

    assert quick.weights == pytest.approx(np.full(4, 0.25))
    assert quick.origins == ()
    assert [m.params for m in quick.members] == [m.params for m in fit.members]


def test_runs_that_allow_no_test_inside_them_say_so(runs):
    few = runs.take(np.argsort(-runs.C, kind="stable")[:8])

    fit = Averaged().fit(few)

    assert fit.origins == ()
    assert fit.rate is None
    assert any("count the same" in warning for warning in fit.warnings)


def test_the_optimum_is_the_lowest_loss_of_the_budget(fit):
    best = fit.optimum(1e23)
    sizes = best.N * np.exp(np.linspace(-1, 1, 2001))
    losses = fit.loss_at(sizes, 1e23 / fit.cost(sizes))

    assert abs(np.log(sizes[np.argmin(losses)] / best.N)) < 0.02
    assert pytest.approx(losses.min(), rel=1e-5) == best.L


def test_replicates_are_the_members_refitted_with_the_same_weights(fit):
    drawn = fit.replicates(30, seed=0)

    N, D = 1e10, 1e12
    logs = [
        np.log(Softmax().loss({name: drawn.values[f"{name}_{k + 1}"] for name in CONSTANTS}, N=N, D=D))
        for k in range(4)
    ]
    assert np.log(fit.loss_at(N, D, drawn.values)) == pytest.approx(fit.weights @ np.array(logs), rel=1e-9)
    assert drawn.optimum(1e23).L.shape == (30 - drawn.failed,)


def test_the_report_lists_settings_and_origins(fit):
    from scalelab.laws.description import FitContext

    facts = [fact.label for fact in fit.facts(FitContext("averaged", 0.9))]

    assert sum(label.startswith("C^") for label in facts) == 4
    assert sum(label.startswith("fitted up to") for label in facts) == len(fit.origins)
    assert len(fit.to_json()["weights"]) == 4


def test_settings_fitted_together_are_those_fitted_alone(runs, fit):
    for member in fit.members:
        alone = member.law.fit(runs)

        assert member.noise == pytest.approx(alone.noise, rel=1e-6)
        assert member.theta == pytest.approx(alone.theta, abs=1e-5)
        assert member.scaled == pytest.approx(alone.scaled, rel=1e-9)


@pytest.mark.parametrize("count", [6, 7])
def test_too_few_runs_are_told_at_once_how_many_are_enough(count):
    N = np.geomspace(1e7, 1e9, count)
    runs = Observations.of(N, 20 * N**1.1, 2 + 400 / N**0.35)

    for law in (Averaged(), Softmax()):
        with pytest.raises(FitError) as refused:
            law.fit(runs)
        assert f"{count} runs of {count} sizes" in refused.value.problem
        assert "at least 8 runs of 3 sizes and 3 token counts" in refused.value.fix
        assert "softmax" not in f"{refused.value}".lower()
