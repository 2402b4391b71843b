"""What the choice of law changes: every member is fitted, and a refuted one does not count."""

import numpy as np
import pytest

from scalelab.laws.base import Optimum
from scalelab.laws.forms.chinchilla import Chinchilla
from scalelab.laws.forms.kaplan import Kaplan
from scalelab.laws.isoflop.law import IsoFlopLaw
from scalelab.laws.observations import Observations
from scalelab.laws.uncertainty.model_uncertainty import CandidateFit, model_set, spread

LAWS = {"isoflop": IsoFlopLaw(), "chinchilla": Chinchilla(), "kaplan": Kaplan()}


@pytest.fixture(scope="module")
def seen(family):
    runs = family(noise=0.001, seed=4)
    fits = {name: law.fit(runs) for name, law in LAWS.items()}
    return fits, model_set(runs, LAWS, fits, 1e21, 0.9)


def test_laws_forms_choices_and_windows_are_all_there(seen):
    _, found = seen

    assert {m.kind for m in found} == {"law", "form", "choice", "bend", "window"}
    names = [m.name for m in found]
    assert len(names) == len(set(names))
    assert {"isoflop", "chinchilla", "kaplan", "chinchilla, least squares"} <= set(names)
    assert any("without 1e+18 FLOPs" in n or "without 1e18 FLOPs" in n for n in names)


def test_the_laws_say_what_their_fits_say(seen):
    fits, found = seen

    said = next(m.values for m in found if m.name == "chinchilla")

    best = fits["chinchilla"].optimum(1e21)
    assert (said["n_params"], said["loss"]) == (best.N, best.L)
    assert said["a"] == fits["chinchilla"].exponents["a"]


def test_what_gives_no_positive_number_is_no_member(family, monkeypatch):
    """A number that cannot be written down would stop `fit --json`, and stand in no comparison."""
    runs = family(noise=0.001, seed=4)
    fits = {"chinchilla": LAWS["chinchilla"].fit(runs)}
    kind = type(fits["chinchilla"])
    monkeypatch.setattr(kind, "frontiers", lambda self, C: {"floored": np.nan, "straight": np.inf})
    monkeypatch.setattr(kind, "optimum", lambda self, C: Optimum(C, 1e-200, 1e200, 2.0))

    assert model_set(runs, {}, fits, 1e21, 0.9) == ()


def test_a_form_that_the_runs_refute_does_not_count(seen):
    """True losses have a floor; Kaplan's form has none and misses them by far."""
    _, found = seen
    kaplan = next(m for m in found if m.name == "kaplan")

    low, high = spread(found, "loss")

    assert "error on the runs" in kaplan.refuted
    assert not low <= kaplan.values["loss"] <= high


def test_losses_of_kaplans_form_refute_the_other_one():
    N, D = (a.ravel() for a in np.meshgrid(np.geomspace(1e6, 1e9, 6), np.geomspace(1e8, 1e11, 6)))
    noise = np.exp(0.001 * np.random.default_rng(0).standard_normal(N.size))
    L = ((6.4e13 / N) ** (0.076 / 0.103) + 1.8e13 / D) ** 0.103 * noise
    runs = Observations.of(N, D, L)
    laws = {"chinchilla": Chinchilla(), "kaplan": Kaplan()}

    found = model_set(runs, laws, {k: v.fit(runs) for k, v in laws.items()}, 1e21, 0.9)

    assert next(m for m in found if m.name == "kaplan").refuted is None
    assert next(m for m in found if m.name == "chinchilla").refuted


@pytest.mark.parametrize("error", [0.0, 3e-17])
def test_runs_without_noise_refute_a_law_whose_error_has_no_ratio(family, monkeypatch, error):
    """The best surface describes them to the last digit, and 1.7% over 0 is no number."""
    runs = family()
    fits = {name: LAWS[name].fit(runs) for name in ("chinchilla", "kaplan")}
    monkeypatch.setattr(
        type(fits["chinchilla"]), "expected", _expected(fits["chinchilla"], runs.L * (1 + error))
    )

    found = {m.name: m for m in model_set(runs, {}, fits, 1e21, 0.9)}

    assert found["chinchilla"].refuted is None
    assert found["kaplan"].refuted.endswith("%, that of the best surface below 0.01%")


def _expected(fit, losses):
    """The losses for one fit, and for others what they expect."""
    usual = type(fit).expected
    return lambda self, runs: losses if self is fit else usual(self, runs)


def test_the_spread_is_over_what_counts():
    found = (
        CandidateFit("one", "law", {"loss": 2.0}, None),
        CandidateFit("two", "form", {"loss": 2.2}, None),
        CandidateFit("three", "form", {"loss": 9.0}, "the minima show a floor"),
    )

    assert spread(found, "loss") == [2.0, 2.2]
    assert spread(found, "a") is None
