"""Kaplan's laws: published constants, the critical batch, optima against a plain search."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from scalelab.errors import FitError
from scalelab.laws.forms.kaplan import Kaplan
from scalelab.laws.forms.kaplan_single import KaplanD, KaplanN
from scalelab.laws.forms.kaplan_steps import KaplanSteps, critical_batch, minimum_compute, minimum_steps
from scalelab.laws.observations import Observations
from scalelab.laws.token_cost import TokenCost

SIX_N = TokenCost(6.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def ladder():
    """Sizes times steps at 2^19 tokens a step, and the published loss with 0.2% noise."""
    N, S = (v.ravel() for v in np.meshgrid(np.geomspace(1e6, 1e9, 5), np.geomspace(3e3, 3e5, 5)))
    law = KaplanSteps()
    L = law.loss(law.published, N=N, S=S, D=S * 2**19)
    L = L * np.exp(0.002 * np.random.default_rng(0).standard_normal(L.size))
    return Observations.of(N, S * 2**19, L, columns={"n_steps": S, "batch_tokens": np.full(S.size, 2**19)})


def test_a_billion_parameters_reach_the_published_loss():
    law = KaplanN()

    assert law.loss(law.published, N=1e9) == pytest.approx(2.3756, rel=1e-3)


def test_the_joint_law_without_end_of_data_is_one_power_of_size():
    law = Kaplan()

    assert law.loss(law.published, N=1e9, D=1e40) == pytest.approx((6.4e13 / 1e9) ** 0.076, rel=1e-6)


def test_eight_times_the_size_asks_five_times_the_data():
    """Kaplan et al. 2020, section 4: D ~ N^0.74 keeps the price of too little data equal."""
    law = Kaplan()

    def penalty(N, D):
        return law.loss(law.published, N=N, D=D) / law.loss(law.published, N=N, D=1e40)

    assert penalty(8e9, 4.64 * 2e10) == pytest.approx(penalty(1e9, 2e10), rel=1e-4)


def test_the_optimum_of_the_joint_law_is_the_lowest_loss_of_its_budget(measured):
    """Also where FLOPs are not 6 N D: against a plain search along the budget."""
    fit, C = Kaplan().fit(measured), 1e13

    best = fit.optimum(C)

    found = minimize_scalar(
        lambda x: fit.predict(N=np.exp(x), D=C / fit.cost(np.exp(x))),
        bounds=(np.log(1e4), np.log(1e7)),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert fit.cost.q > 0
    assert np.log(best.N) == pytest.approx(found.x, abs=1e-5)
    assert pytest.approx(found.fun, rel=1e-9) == best.L


def test_an_optimum_beyond_floating_point_is_nan_and_no_number():
    params = {"N_c": 1e200, "D_c": 1e-90, "alpha_N": 2.0, "alpha_D": 0.01}

    best = Kaplan().optimum(params, np.array([1e21]), SIX_N)

    assert np.isnan([best.N, best.D, best.L]).all()


@pytest.mark.parametrize(("law", "other"), [(KaplanN(), "D"), (KaplanD(), "N")])
def test_one_variable_says_when_the_other_is_not_abundant(law, other, ladder):
    fit = law.fit(ladder)

    assert any(f"{other} is not abundant" in w for w in fit.warnings)


def test_one_variable_says_when_abundance_cannot_be_seen():
    N = np.geomspace(1e7, 1e9, 6)

    fit = KaplanN().fit(Observations.of(N, 20 * N, 10 / N**0.05))

    assert any("whether it is abundant cannot be seen" in w for w in fit.warnings)


def test_one_variable_is_content_where_the_other_changes_nothing():
    N, D = (v.ravel() for v in np.meshgrid(np.geomspace(1e7, 1e9, 6), [1e12, 2e12]))

    assert KaplanN().fit(Observations.of(N, D, 10 / N**0.05)).warnings == ()


def test_the_critical_batch_is_the_published_one():
    assert critical_batch(3.0, B_star=2e8) == pytest.approx(1.07e6, rel=1e-2)
    assert critical_batch(1.0) == pytest.approx(2.1e8)


def test_steps_and_compute_are_traded_on_one_hyperbola():
    """(S / S_min - 1) (C / C_min - 1) = 1, McCandlish et al. 2018."""
    batch, L = np.geomspace(1e3, 1e9, 7), 3.0

    product = (1 / minimum_steps(1, batch, L) - 1) * (1 / minimum_compute(1, batch, L) - 1)

    np.testing.assert_allclose(product, 1, rtol=1e-12)


def test_the_loss_of_a_batch_solves_the_printed_equation():
    """With S_min put in for S, the paper's formula returns the loss that gave S_min."""
    law, N, S, batch = KaplanSteps(), 1e8, 1e5, 5e5

    L = law.loss(law.published, N=N, S=S, D=S * batch)

    least = minimum_steps(S, batch, L)
    assert least < 0.5 * S
    assert law.loss(law.published, N=N, S=least) == pytest.approx(L, rel=1e-12)


def test_size_grows_with_compute_as_its_constants_say():
    """alpha_C / alpha_N; the source prints .71, from .054 / .076 in place of .0525 / .077."""
    law = KaplanSteps()

    a = law.exponents(law.published)["a"]

    assert a == pytest.approx(1 / (1 / 0.76 + 1 / 0.21 + 1 / 0.077) / 0.077, rel=1e-12)
    assert a == pytest.approx(0.681, abs=1e-3)


def test_compute_efficient_training_stops_a_tenth_above_the_end():
    law = KaplanSteps()

    best = law.optimum(law.published, np.array([1e18, 1e21]), SIX_N)

    without_end = (6.5e13 / best.N) ** 0.077
    np.testing.assert_allclose(best.L / without_end, 1 + 0.077 / 0.76, rtol=1e-9)


def test_the_optimum_of_size_and_steps_is_the_lowest_loss_of_its_compute():
    """Where FLOPs are not 6 N D: against a plain search at batches far below the critical."""
    law, cost, C = KaplanSteps(), TokenCost(6.0, 4e4, 0.0), 1e20

    best = law.optimum(law.published, C, cost)

    def loss(x):
        D = C / cost(np.exp(x))
        return law.loss(law.published, N=np.exp(x), S=D / 10, D=D)

    found = minimize_scalar(
        loss, bounds=(np.log(1e6), np.log(1e11)), method="bounded", options={"xatol": 1e-9}
    )
    assert np.log(best.N) == pytest.approx(found.x, abs=1e-4)
    assert pytest.approx(found.fun, rel=1e-4) == best.L


def test_what_is_expected_of_a_run_owes_nothing_to_its_loss(ladder):
    fit = KaplanSteps().fit(ladder)
    other = Observations.of(ladder.N, ladder.D, 3 * ladder.L, columns=ladder.columns)

    np.testing.assert_array_equal(fit.expected(ladder), fit.expected(other))


def test_refuses_runs_without_steps(ladder):
    with pytest.raises(FitError, match="the column n_steps"):
        KaplanSteps().fit(Observations.of(ladder.N, ladder.D, ladder.L))


def test_a_batch_that_steps_and_tokens_contradict_is_named(ladder):
    other = {"batch_tokens": np.full(len(ladder), 2**18)}
    runs = Observations.of(ladder.N, ladder.D, ladder.L, columns={**ladder.columns, **other})

    assert any("n_steps x batch_tokens" in w for w in KaplanSteps().fit(runs).warnings)
    assert not any("n_steps x batch_tokens" in w for w in KaplanSteps().fit(ladder).warnings)
