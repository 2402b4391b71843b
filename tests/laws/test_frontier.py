"""The frontier alone: known curves recovered, from minima and from efficient runs."""

import json
from dataclasses import replace

import numpy as np
import pytest

from scalelab.errors import FitError
from scalelab.laws.isoflop.frontier import FrontierLaw, KaplanC, efficient
from scalelab.laws.observations import Observations

GAMMA = 0.35 * 0.37 / 0.72
G = (0.35 * 480 / (0.37 * 2100)) ** (1 / 0.72)
K = (480 * G**-0.35 + 2100 * G**0.37) * 6**GAMMA


def of_compute(C, L):
    return Observations.of(N=C**0.5, D=C**0.5 / 6, L=L, C=C)


def test_finds_the_floor_and_the_exponent_of_a_surface(family):
    """On a Chinchilla surface L* is exactly E + K C^-gamma, gamma = alpha beta/(alpha+beta)."""
    fit = FrontierLaw().fit(family())

    assert fit.params["E"] == pytest.approx(1.8, rel=1e-6)
    assert fit.params["gamma"] == pytest.approx(GAMMA, rel=1e-6)
    assert fit.params["K"] == pytest.approx(K, rel=1e-3)  # the parabola's bias
    assert fit.warnings == ()


def test_params_give_the_loss_in_flops(family):
    fit = FrontierLaw().fit(family(noise=0.002))
    p = fit.params

    assert fit.predict(C=1e23) == pytest.approx(p["E"] + p["K"] * 1e23 ** -p["gamma"], rel=1e-12)
    assert fit.frontiers(1e23) == {"floor": pytest.approx(float(fit.predict(C=1e23)))}


def test_finds_the_published_power_of_compute():
    """Kaplan et al. 2020: alpha_C = .050, C_c = 3.1e8 PF-days of 8.64e19 FLOPs."""
    C = np.geomspace(1e17, 1e22, 12)

    fit = KaplanC().fit(of_compute(C, (3.1e8 * 8.64e19 / C) ** 0.05))

    assert fit.params["alpha_C"] == pytest.approx(0.05, rel=1e-9)
    assert fit.params["C_c"] == pytest.approx(2.6784e28, rel=1e-6)
    assert fit.frontiers(8.64e19) == {"power": pytest.approx(3.1e8**0.05)}


def test_replicates_scatter_around_the_fit(family):
    fit = FrontierLaw().fit(family(noise=0.002))

    drawn = fit.replicates(400, 0)

    for key, value in fit.params.items():
        low, high = np.quantile(drawn.values[key], [0.01, 0.99])
        assert low < value < high
    assert drawn.optimum(1e21) is None
    assert drawn.failed == 0


def test_efficient_runs_are_those_that_no_run_of_as_little_compute_beats():
    C = np.array([1.0, 2, 3, 4, 4, 5]) * 1e18
    runs = of_compute(C, np.array([3.0, 2.5, 2.6, 2.2, 2.3, 2.2]))

    assert list(efficient(runs).run) == ["row 0", "row 1", "row 3"]


def test_without_budgets_it_follows_the_efficient_runs_and_says_so():
    C = np.geomspace(1e17, 1e21, 9)
    C, L = np.tile(C, 2), np.concatenate([1.7 + 90 * C**-0.1, 2 + 90 * C**-0.1])

    fit = FrontierLaw().fit(of_compute(C, L))

    assert fit.params == pytest.approx({"E": 1.7, "K": 90, "gamma": 0.1}, rel=1e-3)
    assert len(fit.C) == 9
    assert fit.replicates(100, 0) is None
    assert any("9 efficient runs" in warning for warning in fit.warnings)
    assert json.loads(json.dumps(fit.to_json(), allow_nan=False))["points_are"] == "efficient runs"


def test_a_refused_budget_is_no_point_and_is_told(family):
    runs = family()
    falling = runs.flops_planned == 3e18
    L = np.where(falling, 4 - 0.01 * np.arange(len(runs)), runs.L)

    fit = FrontierLaw().fit(replace(runs, L=L))

    assert len(fit.C) == 4
    assert "1 budgets refused: no interior minimum" in fit.warnings
    assert any("leave one to see the error by" in warning for warning in fit.warnings)


def test_points_without_a_floor_break_the_law_that_claims_one():
    C = np.geomspace(1e17, 1e21, 6)
    bent = FrontierLaw().fit(of_compute(C, -0.5 + 4 * (C / 1e19) ** -0.1))
    straight = FrontierLaw().fit(of_compute(C, 5 - 0.1 * np.log(C / 1e17)))

    assert any("show no floor: best E = -0.5" in fault for fault in bent.broken)
    assert any("edge of the search" in fault for fault in straight.broken)


def test_a_loss_that_rises_with_compute_breaks_the_power_law(family):
    runs = family()
    rising = replace(runs, L=runs.L * (runs.flops_planned / 1e18) ** 0.2)

    fit = KaplanC().fit(rising)

    assert any("does not fall with compute" in fault for fault in fit.broken)


@pytest.mark.parametrize(("law", "n"), [(FrontierLaw(), 3), (KaplanC(), 2)])
def test_refuses_too_few_points(family, law, n):
    with pytest.raises(FitError, match=f"{n} minima of isoFLOP slices cannot show") as caught:
        law.fit(family(budgets=(1e18, 1e19, 1e20)[:n]))

    assert f"until {n + 1} have an interior minimum" in caught.value.fix


@pytest.mark.parametrize("law", [FrontierLaw(), KaplanC()])
def test_refuses_compute_that_hardly_varies(law):
    C = np.linspace(1e18, 1.5e18, 8)

    with pytest.raises(FitError, match=r"compute spans only 1\.50x"):
        law.fit(of_compute(C, 3 - 0.01 * np.arange(8)))


def test_refuses_constants_that_cannot_be_written_down():
    C = np.geomspace(1e18, 1e21, 5)

    with pytest.raises(FitError, match="hardly falls with compute"):
        KaplanC().fit(of_compute(C, 3 - 1e-6 * np.arange(5)))
