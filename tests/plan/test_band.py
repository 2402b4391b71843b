"""The band of a loss curve: made of the evidence's curves, as wide as they and the forecast are."""

import json

import numpy as np
import pytest

from scalelab.plan.forecast.band import NEAREST, LossBand, RunCurve, band


def curves(n=6, seed=0, scatter=0.01, shares=(0.2, 0.4, 0.6, 0.8), loss=3.0, **settings):
    """Runs whose excess over the final loss is 1 / share - 1, and a little luck."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(n):
        points = [[s * 1000, s * 1e6, loss + 1 / s - 1 + scatter * rng.standard_normal()] for s in shares]
        found.append(RunCurve(f"r{i}", 1e6, 1e7, 1000, loss, points))
    return found


def wanted(found, interval=(1.9, 2.2)):
    return band(found, n_params=2e6, n_tokens=2e7, loss=2.0, interval=list(interval))


def test_the_expected_curve_carries_over_what_is_left_to_lose():
    found = wanted(curves(scatter=1e-9))

    for share in (0.2, 0.4, 0.6, 0.8, 1.0):
        assert found.at(share)[1] == pytest.approx(2.0 + 1 / share - 1, abs=1e-6), share


def test_it_ends_in_the_forecast_and_its_interval():
    assert wanted(curves()).at(1.0) == pytest.approx((1.9, 2.0, 2.2))


def test_it_holds_another_curve_of_the_same_kind():
    found = wanted(curves(scatter=0.05), (1.99, 2.01))

    others = [curves(1, seed, 0.05, loss=2.0)[0] for seed in range(1, 101)]
    left = [found.leaves(step / 1000, loss) for c in others for step, _, loss in c.points]
    assert np.mean([side is not None for side in left]) < 0.05


def test_curves_that_scatter_more_widen_it():
    calm, wild = (wanted(curves(scatter=s), (2.0, 2.0)).at(0.4) for s in (0.01, 0.1))

    assert wild[2] - wild[0] == pytest.approx(10 * (calm[2] - calm[0]))


def test_a_wider_forecast_widens_it_on_its_own_side():
    near, far = (wanted(curves(), (1.9, high)).at(0.4) for high in (2.2, 2.5))

    assert far[2] - near[2] == pytest.approx(0.3)
    assert far[0] == near[0]


def test_a_loss_outside_is_told_by_its_side():
    found = wanted(curves())

    assert found.leaves(0.4, 2.0 + 1.5 + 1) == "above"
    assert found.leaves(0.4, 2.0 + 1.5 - 1) == "below"
    assert found.leaves(0.4, 2.0 + 1.5) is None
    assert found.leaves(0.4, float("nan")) == "not finite"


def test_before_the_first_point_of_the_curves_it_says_nothing():
    found = wanted(curves())

    assert found.at(0.1) is None
    assert found.leaves(0.1, 99.0) is None


def test_the_nearest_runs_make_it():
    far = [RunCurve(f"far{i}", 1e3, 1e3, 10, 3.0, [[2, 1, 9.0]]) for i in range(20)]

    found = wanted(far + curves(NEAREST))

    assert set(found.runs) == {f"r{i}" for i in range(NEAREST)}


def test_a_training_curve_may_end_below_the_validation_loss():
    found = [
        RunCurve(c.run, c.n_params, c.n_tokens, c.n_steps, c.loss, [*c.points, [1000, 1e6, 2.9]])
        for c in curves()
    ]

    assert wanted(found).at(1.0)[1] == pytest.approx(1.9)


def test_too_few_curves_or_no_interval_leave_no_band():
    silent = [RunCurve("s", 1e6, 1e7, 1000, 3.0, [])]

    assert "2 runs of the evidence have a loss curve" in wanted(curves(2) + silent)
    assert (
        band(curves(), n_params=1.0, n_tokens=1.0, loss=2.0, interval=None) == "the forecast has no interval"
    )


def test_json_and_back():
    found = wanted(curves())

    assert LossBand.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found
