"""Profiles of E and k: against another search, with and without the prior, open ends, the figure."""

import numpy as np
import pytest

from scalelab.laws import levenberg
from scalelab.laws.averaged.law import Averaged
from scalelab.laws.forms.softmax import Softmax
from scalelab.laws.forms.softmax_profile import ProfileCurve, crossings
from scalelab.laws.forms.softmax_search import coarse_ends
from scalelab.laws.observations import Observations
from scalelab.laws.uncertainty.profile_likelihood import profile
from scalelab.testing.figures import check_figure

CONSTANTS = {"E": 1.6, "A": 150.0, "B": 70.0, "alpha_N": 0.26, "alpha_D": 0.2, "k": 0.5}


def grid(noise=0.003, seed=0, sizes=6, lengths=6):
    N, D = (
        part.ravel() for part in np.meshgrid(np.geomspace(2e7, 2e9, sizes), np.geomspace(1e9, 2e11, lengths))
    )
    L = Softmax().loss(CONSTANTS, N=N, D=D)
    return Observations.of(N, D, L * np.exp(noise * np.random.default_rng(seed).standard_normal(N.size)))


@pytest.fixture(scope="module")
def fit():
    return Softmax().fit(grid())


@pytest.mark.parametrize("name", ["E", "k"])
def test_without_a_prior_it_agrees_with_the_other_search(name):
    """Sequential quadratic programming over the region, where this one refits on a grid."""
    plain = Softmax(share=1.0, prior_scale=0.0, ratio_sd=np.inf).fit(grid(noise=0.001))

    found = plain.profiles(1e23, 0.9)[name]
    other = profile(plain, lambda constants: constants[name], 0.9)

    width = other[1] - other[0]
    assert found == pytest.approx(other, abs=0.05 * width)


@pytest.mark.parametrize("name", ["E", "k"])
def test_each_value_is_the_best_of_many_starts(fit, name):
    """With the prior: T is proportional to the rise of the objective that many starts find."""
    curve, surface = fit.profiled[name].penalised, fit.surface
    held = np.arange(6) == surface.coordinates.index(name)
    values = int(np.argmin(curve.statistic)) + np.array([-5, -3, 3, 5])
    rises = []
    for k in values:
        starts = np.vstack([fit.theta, coarse_ends([surface])[0, :12]])
        starts[:, held] = surface.theta({**fit.params, name: curve.value[k]})[held]
        ends = levenberg.descend(surface, starts, delta=surface.delta, prior=fit.prior, steps=200, fixed=held)
        rises.append(ends.objective.min() - fit.scaled * surface.delta**2)

    units = rises / curve.statistic[values]
    assert units == pytest.approx(np.full(4, units[0]), rel=0.01)


def test_the_prior_narrows_the_profile(fit):
    for one in fit.profiled.values():
        limit = one.threshold(0.9)
        alone, held = crossings(one.alone, limit), crossings(one.penalised, limit)
        assert held[1] - held[0] < alone[1] - alone[0]


def test_higher_levels_reach_further(fit):
    narrow, wide = (fit.profiles(1e23, level)["E"] for level in (0.5, 0.95))

    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_an_end_that_the_runs_leave_open_is_none():
    """Ten runs with 2% noise do not exclude any floor."""
    noisy = Softmax().fit(grid(noise=0.02, sizes=4, lengths=4))

    assert noisy.profiles(1e23, 0.9)["E"][0] is None
    assert "E up to" in noisy.pictures()[0].caption or "E any value" in noisy.pictures()[0].caption


def test_crossings_follow_the_root_of_the_statistic():
    value = np.exp(np.linspace(-2, 2, 9))
    curve = ProfileCurve(value, np.log(value) ** 2 * 4, 1.0)

    assert crossings(curve, 2.25) == pytest.approx([np.exp(-0.75), np.exp(0.75)])
    assert crossings(curve, 100.0) == [None, None]


@pytest.mark.parametrize(
    ("law", "noise"),
    [(Softmax(least_counted=5, share=0.1), 0.003), (Softmax(), 0.0)],
    ids=["no spare", "exact"],
)
def test_no_profile_where_the_runs_cannot_object(law, noise):
    fit = law.fit(grid(noise=noise))

    assert fit.profiles(1e23, 0.9) is None
    assert fit.pictures() == ()


def test_the_average_shows_its_heaviest_setting():
    fit = Averaged().fit(grid())

    k = int(np.argmax(fit.weights))
    found = fit.profiles(1e23, 0.9)
    assert found == {f"{name}_{k + 1}": ends for name, ends in fit.members[k].profiles(1e23, 0.9).items()}
    (picture,) = fit.pictures()
    assert f"weight {fit.weights[k]:.0%}" in picture.caption
    figure = check_figure(picture.figure, picture.data)
    assert [axes.get_xlabel() for axes in figure.axes] == ["floor E (nats per token)", "softness k"]


def test_the_figure_marks_what_the_runs_allow(fit):
    figure = check_figure("profile", fit.pictures()[0].data)

    for axes, one in zip(figure.axes, fit.profiled.values(), strict=True):
        marks = [line.get_xdata()[0] for line in axes.lines if len(set(line.get_xdata())) == 1]
        ends = [end for end in one.interval(0.9) if end is not None]
        assert set(ends) <= set(marks)
