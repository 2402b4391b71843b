"""What laws that are not quoted say of the runs counts against a forecast; what they say of themselves does not."""

import dataclasses

import numpy as np
import pytest

from scalelab.study.forecast import Forecast
from scalelab.study.simulate.designs import GaussianNoise, SimulatedIsoFlop
from scalelab.study.simulate.simulation import simulate
from scalelab.study.study import study
from scalelab.study.verdict import judge

SHAPE, FEW = "another shape of the valley", "fewer than three sizes on one side"


def studied(offset):
    """Four budgets whose valleys are noisy, their centre off by a factor."""
    design = SimulatedIsoFlop((1e18, 2e18, 4e18, 8e18), offset=offset, seeds=2)
    runs = simulate("chinchilla", design=design, noise=[GaussianNoise(0.004)], seed=3)
    return study(runs, target_flops=3.2e19, param_count="total", kind="simulated", replicates=200)


def judged(made, alone, monkeypatch):
    """The reasons of a study if its calibrated interval stood alone, or did not."""
    monkeypatch.setattr(Forecast, "stands_alone", property(lambda _: alone))
    drawn = {name: made.replicates.get(name) for name in made.fits}
    verdict = judge(made.forecast, made.fits, {}, drawn, made.holdout, made.seed_noise, (), 200)
    return " | ".join(verdict.reasons)


@pytest.fixture(scope="module")
def centred():
    return studied(1.0)


def test_the_shape_of_a_curve_that_is_not_quoted_is_no_reason(centred, monkeypatch):
    assert any(SHAPE in warning for warning in centred.fits["isoflop"].warnings)
    assert not any(SHAPE in warning for warning in centred.fits["isoflop"].evidence_warnings)

    assert SHAPE in judged(centred, False, monkeypatch)
    assert SHAPE not in judged(centred, True, monkeypatch)


def test_the_distance_of_laws_that_are_not_quoted_is_no_reason(centred, monkeypatch):
    apart = dataclasses.replace(
        centred.forecast,
        members=tuple(
            dataclasses.replace(m, refuted=None, values={**m.values, "loss": m.values["loss"] * (1 + 0.03 * k)})
            for k, m in enumerate(centred.forecast.members[:2])
        ),
    )  # fmt: skip
    made = dataclasses.replace(centred, forecast=apart)
    assert "laws and forms differ" in judged(made, False, monkeypatch)
    assert "laws and forms differ" not in judged(made, True, monkeypatch)


def test_where_the_runs_stand_counts_in_either_case(monkeypatch):
    made = studied(2.5)
    assert any(FEW in warning for warning in made.fits["isoflop"].evidence_warnings)
    assert FEW in judged(made, False, monkeypatch)
    assert FEW in judged(made, True, monkeypatch)


def test_every_warning_of_the_evidence_is_one_of_the_fit(centred):
    for fit in (*centred.fits.values(), *studied(2.5).fits.values()):
        assert set(fit.evidence_warnings) <= set(fit.warnings)
        assert np.isin(fit.broken, fit.evidence_warnings).all()
