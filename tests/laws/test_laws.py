"""Every registered law obeys these, so a new law is tested by being registered."""

import dataclasses
import json

import numpy as np
import pytest

from scalelab.errors import FitError
from scalelab.laws import LAWS
from scalelab.laws.base import Law, LawFit, Observations

C = 1e21
BEST_N = (0.35 * 480 / (0.37 * 2100)) ** (1 / 0.72) * (C / 6) ** (0.37 / 0.72)
BEST_L = 1.8 + 480 / BEST_N**0.35 + 2100 / (C / 6 / BEST_N) ** 0.37


@pytest.fixture(params=LAWS)
def law(request):
    return LAWS[request.param]()


def test_is_an_immutable_law(law):
    assert isinstance(law, Law)
    assert law.formula
    with pytest.raises(dataclasses.FrozenInstanceError):
        law.formula = "another"


def test_forecasts_the_optimum_10x_past_noisy_runs(law, family):
    fit = law.fit(family(noise=0.001))

    best = fit.optimum(C)

    assert isinstance(fit, LawFit)
    assert float(np.ravel(best.N)[0]) == pytest.approx(BEST_N, rel=0.1)
    assert float(np.ravel(best.D)[0]) == pytest.approx(C / 6 / BEST_N, rel=0.1)
    assert float(np.ravel(best.L)[0]) == pytest.approx(BEST_L, rel=0.01)


def test_the_optimum_broadcasts(law, family):
    best = law.fit(family()).optimum(np.array([1e20, 1e21]))

    assert best.N.shape == best.D.shape == best.L.shape == (2,)
    assert np.all(np.diff(best.N) > 0)
    assert np.all(np.diff(best.L) < 0)


def test_one_form_of_the_frontier_is_the_true_one(law, family):
    """Losses fall from about 3 to 2.25 on the way; the form without a floor falls too far."""
    forms = law.fit(family()).frontiers(C)

    assert min(abs(loss / BEST_L - 1) for loss in forms.values()) < 0.002
    assert max(abs(loss / BEST_L - 1) for loss in forms.values()) < 0.1


def test_replicates_are_as_many_as_worked(law, family):
    drawn = law.fit(family(noise=0.003)).replicates(50, seed=0)

    assert drawn.asked == 50
    assert {"a", "b"} <= set(drawn.values)
    assert all(v.shape == (50 - drawn.failed,) for v in drawn.values.values())
    assert drawn.optimum(C).N.shape == (50 - drawn.failed,)
    assert drawn.unit


def test_replicates_scatter_around_the_fit(law, family):
    fit = law.fit(family(noise=0.003))

    drawn = fit.replicates(300, seed=0).optimum(C)

    low, high = np.quantile(drawn.N, [0.02, 0.98])
    assert low < float(np.ravel(fit.optimum(C).N)[0]) < high
    assert 1.01 < high / low < 3


def test_its_part_of_the_json_is_json(law, family):
    told = law.fit(family(noise=0.003)).to_json()

    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert set(told["exponents"]) == {"a", "b"}


def test_refuses_three_runs(law, family):
    with pytest.raises(FitError) as caught:
        law.fit(family().take(np.arange(3)))

    assert caught.value.fix


def test_does_not_touch_the_runs(law, family):
    runs = family(noise=0.003)
    before = {f.name: getattr(runs, f.name).copy() for f in dataclasses.fields(Observations)}

    law.fit(runs).replicates(20, seed=0)

    for name, value in before.items():
        np.testing.assert_array_equal(getattr(runs, name), value)
