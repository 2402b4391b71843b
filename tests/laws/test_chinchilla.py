"""The Chinchilla surface: published data, known answers, and searches that went wrong."""

import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar

from scalelab.errors import FitError
from scalelab.laws import solver
from scalelab.laws.forms.chinchilla import Chinchilla, optimum
from scalelab.laws.observations import Observations


@pytest.fixture(scope="module")
def published(hoffmann):
    return Chinchilla().fit(hoffmann)


def test_reproduces_the_converged_fit_of_the_published_points(published):
    assert published.objective == pytest.approx(0.001018274017801, rel=1e-9)
    assert published.params["E"] == pytest.approx(1.8172181, rel=1e-5)
    assert published.params["A"] == pytest.approx(477.826, rel=1e-4)
    assert published.params["B"] == pytest.approx(2143.417, rel=1e-4)
    assert published.params["alpha"] == pytest.approx(0.3473105, rel=1e-5)
    assert published.params["beta"] == pytest.approx(0.3671724, rel=1e-5)
    assert published.exponents["a"] == pytest.approx(0.51390, abs=1e-5)
    assert published.solver.converged
    assert published.solver.agreement > 0.9


def test_five_points_more_move_the_fit_as_published(hoffmann_245):
    fit = Chinchilla().fit(hoffmann_245)

    assert fit.objective == pytest.approx(0.001826010523069, rel=1e-9)
    assert fit.params["alpha"] == pytest.approx(0.34931, abs=5e-6)
    assert fit.params["beta"] == pytest.approx(0.45305, abs=5e-6)
    assert fit.exponents["a"] == pytest.approx(0.565, abs=5e-4)


def test_least_squares_by_variable_projection_as_published(hoffmann):
    """Czech et al. 2026: linear squares on C < 1e21, with N in 1e6 and D in 1e9."""
    fit = Chinchilla("squares").fit(hoffmann.take(hoffmann.C < 1e21))

    assert fit.objective == pytest.approx(0.062414, rel=1e-4)
    assert fit.params["alpha"] == pytest.approx(0.3511, rel=1e-3)
    assert fit.params["beta"] == pytest.approx(0.4587, rel=1e-3)
    assert fit.params["E"] == pytest.approx(1.9051, rel=1e-3)
    assert fit.params["A"] / 1e6 ** fit.params["alpha"] == pytest.approx(4.0005, rel=1e-3)
    assert fit.params["B"] / 1e9 ** fit.params["beta"] == pytest.approx(1.0509, rel=1e-3)


def test_reproduces_the_published_bootstrap(published):
    drawn = published.replicates(4000, seed=0)

    errors = {k: np.std(v) for k, v in drawn.values.items()}

    assert drawn.failed == 0
    assert errors["alpha"] == pytest.approx(0.0154, rel=0.1)
    assert errors["beta"] == pytest.approx(0.0206, rel=0.1)
    assert errors["E"] == pytest.approx(0.0257, rel=0.1)
    assert errors["a"] == pytest.approx(0.0197, rel=0.1)


@pytest.mark.parametrize("reduced", [np.mean, np.sum], ids=["mean", "sum"])
def test_an_unscaled_objective_with_default_tolerances_is_caught(published, reduced):
    """The published fault: a loss of 1e-3 to 1e-6, scipy's own tolerances; it reports success."""
    surface = published.surface

    def unscaled(theta):
        value, slope = surface.at(theta[None])
        miss = value[0] - surface.target
        pull = np.clip(miss / surface.delta, -1, 1) * surface.delta
        loss = np.where(abs(miss) < surface.delta, miss**2 / 2, surface.delta * abs(miss) - 5e-7)
        return reduced(loss), slope[0] @ pull * (reduced(loss) / loss.sum())

    ends = [minimize(unscaled, s, jac=True, method="L-BFGS-B") for s in surface.starts()[::3]]
    theta = np.array([end.x for end in ends])
    _, search = solver.judge(surface, solver.evaluate(surface, theta))

    assert sum(end.success for end in ends) > len(ends) / 2
    assert not search.converged
    assert search.gradient_norm > 1e3 * published.solver.gradient_norm
    if reduced is np.mean:
        assert search.agreement < 0.5


def test_a_start_is_never_a_fit(published):
    surface = published.surface
    starts = surface.starts()

    _, search = solver.judge(surface, solver.evaluate(surface, starts))

    assert not search.converged


def test_slope_is_the_derivative_of_the_value(published):
    surface, theta = published.surface, published.theta + 0.1

    slope = surface.at(theta[None])[1][0]

    for k, h in enumerate(1e-6 * np.eye(5)):
        rise = surface.at((theta + h)[None])[0] - surface.at((theta - h)[None])[0]
        np.testing.assert_allclose(slope[k], rise[0] / 2e-6, rtol=1e-6, atol=1e-8)


def test_bend_is_the_derivative_of_the_slope(published):
    surface, theta = published.surface, published.theta + 0.1
    pull = np.linspace(-1, 1, 240)

    bend = surface.hessian(theta[None], surface.at(theta[None])[1], pull[None])[0]

    for k, h in enumerate(1e-6 * np.eye(5)):
        up, down = (surface.at(x[None])[1][0] for x in (theta + h, theta - h))
        rise = (up - down) @ pull
        np.testing.assert_allclose(bend[k], rise / 2e-6, rtol=1e-5, atol=1e-6)


def test_the_optimum_is_the_lowest_loss_of_its_budget(measured):
    """Also where FLOPs are not 6 N D: against a plain search along the budget."""
    fit, C = Chinchilla().fit(measured), 1e13

    best = fit.optimum(C)

    found = minimize_scalar(
        lambda x: fit.predict(N=np.exp(x), D=C / fit.cost(np.exp(x))),
        bounds=(np.log(1e4), np.log(1e7)),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert fit.cost.q > 0
    assert np.log(best.N) == pytest.approx(found.x, abs=1e-5)
    assert best.D * fit.cost(best.N) == pytest.approx(C, rel=1e-12)


def test_one_ruined_run_barely_moves_the_surface(family):
    runs = family()
    ruined = Observations.of(
        runs.N,
        runs.D,
        np.where(np.arange(len(runs)) == 12, 2 * runs.L, runs.L),
        flops_planned=runs.flops_planned,
    )

    clean, dirty = (Chinchilla().fit(r).optimum(1e22) for r in (runs, ruined))

    assert pytest.approx(clean.L, rel=1e-3) == dirty.L
    assert pytest.approx(clean.N, rel=2e-2) == dirty.N


def test_a_floor_that_is_not_there_is_named():
    N, D = (a.ravel() for a in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 5)))

    fit = Chinchilla().fit(Observations.of(N, D, 20 / N**0.1 + 30 / D**0.1 - 0.2))

    assert "E" in fit.solver.at_bound
    assert any("E stopped at the edge" in w for w in fit.warnings)


def test_refuses_fewer_runs_than_it_needs(family):
    with pytest.raises(FitError, match="5 runs cannot pin down 5 constants"):
        Chinchilla().fit(family().take(np.arange(5)))


def test_refuses_tokens_that_never_vary(family):
    runs = family()

    with pytest.raises(FitError, match=r"D spans only 1\.00x"):
        Chinchilla().fit(Observations.of(runs.N, np.full(len(runs), 2e10), runs.L))


def test_refuses_tokens_tied_to_size(family):
    runs = family()

    with pytest.raises(FitError, match="move together"):
        Chinchilla().fit(Observations.of(runs.N, 20 * runs.N, runs.L))


def test_an_optimum_beyond_floating_point_is_nan_and_no_number(published):
    params = {"E": 1.0, "A": 1800.0, "B": 1.0, "alpha": 0.01, "beta": 0.01}  # N* about e^400

    best = optimum(params, np.array([1e21]), published.cost)

    assert np.isnan([best.N, best.D, best.L]).all()


def test_a_large_table_ends_where_every_start_on_all_of_it_does(truth):
    """Beyond LARGE runs the many starts see a sample; the end must not know."""
    rng = np.random.default_rng(0)
    N, D = 10 ** rng.uniform(7, 10, 9000), 10 ** rng.uniform(9, 12, 9000)
    L = truth["E"] + truth["A"] / N ** truth["alpha"] + truth["B"] / D ** truth["beta"]
    runs = Observations.of(N, D, L * np.exp(0.003 * rng.standard_normal(9000)))

    fit = Chinchilla().fit(runs)

    every = solver.search(fit.surface, fit.surface.starts()[::6])
    assert fit.scaled == pytest.approx(every.objective.min(), rel=1e-9)
    assert fit.solver.converged
    assert fit.solver.starts == len(fit.surface.starts())
