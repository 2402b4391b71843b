"""The batched Levenberg-Marquardt search: known optima, priors, bounds, agreement with the other solver."""

import numpy as np
import pytest
from scipy.optimize import minimize

from scalelab.laws import LAWS, levenberg, solver
from scalelab.laws.forms.softmax import Softmax
from scalelab.laws.levenberg import Prior
from scalelab.laws.observations import Observations


def grid(noise=0.003, seed=0):
    """30 runs of a Chinchilla surface."""
    N, D = (part.ravel() for part in np.meshgrid(np.geomspace(2e7, 2e9, 6), np.geomspace(1e9, 2e11, 5)))
    L = (1.8 + 480 / N**0.35 + 2100 / D**0.37) * np.exp(
        noise * np.random.default_rng(seed).standard_normal(N.size)
    )
    return Observations.of(N, D, L)


@pytest.fixture(scope="module")
def surface():
    return LAWS["chinchilla"]().bind(grid())


def best(surface, **settings):
    ends = levenberg.descend(surface, surface.starts(), delta=1e-3, **settings)
    return ends, ends.order[0]


def test_reaches_the_published_optimum(hoffmann):
    """The sum of Huber penalties on the 240 points of Besiroglu et al. 2024."""
    surface = LAWS["chinchilla"]().bind(hoffmann)

    ends, k = best(surface)

    assert ends.objective[k] == pytest.approx(0.00101827401831, rel=1e-9)
    found = {name: float(value[k]) for name, value in surface.constants(ends.theta).items()}
    assert found == pytest.approx(LAWS["chinchilla"]().published, rel=1e-4)


def test_agrees_with_the_newton_solver(surface):
    ends, k = best(surface)

    other = solver.search(surface, surface.starts())

    assert ends.converged[k]
    assert ends.objective[k] / surface.delta**2 == pytest.approx(other.objective.min(), rel=1e-7)
    assert ends.theta[k] == pytest.approx(other.theta[np.argmin(other.objective)], rel=1e-4)


def test_agrees_with_lbfgs_from_its_own_end(surface):
    def objective(theta):
        error = np.abs(surface.at(theta[None])[0][0] - surface.target)
        return float(np.sum(np.where(error < 1e-3, error**2 / 2, 1e-3 * (error - 5e-4)))) * 1e6

    ends, k = best(surface)
    bounds = list(zip(surface.low, surface.high, strict=True))

    polished = minimize(objective, ends.theta[k], method="L-BFGS-B", bounds=bounds)

    assert polished.fun >= ends.objective[k] * 1e6 * (1 - 1e-6)


def test_a_prior_alone_decides_where_the_runs_say_nothing():
    """A weightless run leaves the prior's mean."""
    runs = grid()
    surface = Softmax().bind(runs)
    mean, inverse = surface.prior(0.3)

    ends = levenberg.descend(
        surface,
        surface.starts()[:3],
        delta=1e-3,
        weights=np.zeros((3, len(runs))),
        prior=Prior(mean, inverse),
    )

    assert ends.theta == pytest.approx(np.tile(mean, (3, 1)), abs=1e-5)
    assert ends.objective == pytest.approx(0, abs=1e-9)


def test_the_objective_with_a_prior_is_stationary():
    """Its derivative by differences vanishes at the end, in every coordinate."""
    surface = Softmax().bind(grid())
    mean, inverse = surface.prior(0.3)
    prior = Prior(mean, inverse * 1e-5)

    def objective(theta):
        error = np.abs(surface.at(theta[None])[0][0] - surface.target)
        away = theta - mean
        penalty = np.sum(np.where(error < 1e-3, error**2 / 2, 1e-3 * (error - 5e-4)))
        return float(penalty + away @ prior.precision @ away / 2)

    ends, k = best(surface, prior=prior)

    assert ends.objective[k] == pytest.approx(objective(ends.theta[k]), rel=1e-9)
    for step in 1e-4 * np.eye(6):
        slope = (objective(ends.theta[k] + step) - objective(ends.theta[k] - step)) / 2e-4
        assert abs(slope) < 1e-3 * np.sqrt(ends.objective[k] * prior.precision.max())


def test_each_search_may_have_its_own_prior_and_weights():
    surface = Softmax().bind(grid())
    mean, inverse = surface.prior(0.3)
    weights = np.vstack([np.ones(30), np.arange(30) % 2 + 0.5])
    scales = np.array([1e-6, 1e-4])
    start = surface.starts()[:1]

    both = levenberg.descend(
        surface,
        np.tile(start, (2, 1)),
        delta=1e-3,
        weights=weights,
        prior=Prior(mean, scales[:, None, None] * inverse),
    )

    for k in range(2):
        alone = levenberg.descend(
            surface, start, delta=1e-3, weights=weights[k : k + 1], prior=Prior(mean, scales[k] * inverse)
        )
        assert both.theta[k] == pytest.approx(alone.theta[0], abs=1e-6)


def test_stays_within_the_bounds_and_keeps_what_is_fixed(surface):
    narrow = np.clip(surface.starts(), surface.low, surface.high)[:4]
    held = np.array([False, False, False, True, False])

    ends = levenberg.descend(surface, narrow, delta=1e-3, fixed=held)

    assert np.all((ends.theta >= surface.low) & (ends.theta <= surface.high))
    assert np.array_equal(ends.theta[:, 3], narrow[:, 3])


def test_blocks_do_not_change_the_answer(surface, monkeypatch):
    whole = levenberg.descend(surface, surface.starts(), delta=1e-3, weights=np.ones((62, 30)))

    monkeypatch.setattr(levenberg, "AT_ONCE", 30 * 7)
    parts = levenberg.descend(
        surface, surface.starts(), delta=1e-3, weights=lambda i, j: np.ones((j - i, 30))
    )

    assert parts.objective.min() == pytest.approx(whole.objective.min(), rel=1e-9)


def test_columns_of_integers_do_not_overflow():
    """6 N D is beyond 2^63 for the largest runs of public tables."""
    runs = grid()
    whole = Observations.of(runs.N.astype(np.int64), runs.D.astype(np.int64) * 1000, runs.L)

    assert np.all(whole.C > 0)
    assert Softmax().fit(whole).params["E"] == pytest.approx(
        Softmax().fit(Observations.of(whole.N, whole.D, runs.L)).params["E"]
    )
