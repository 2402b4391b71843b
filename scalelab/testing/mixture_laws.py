"""Conformance of mixture laws: they predict what they were fitted to, in any order, and refuse what is too little."""

import json
from dataclasses import FrozenInstanceError, replace

import numpy as np
from numpy.testing import assert_allclose

from scalelab.errors import FitError
from scalelab.laws.mixture import MIXTURE_LAWS
from scalelab.laws.mixture.base import MixtureRuns


def planted(n: int = 24, k: int = 4, noise: float = 0.0, seed: int = 0) -> MixtureRuns:
    """Return runs of a law of logs with offset 0.01.

    Args:
        n: Mixtures.
        k: Domains, and as many targets.
        noise: Standard deviation of ln L.
        seed: Of the mixtures, the law and the noise.
    """
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(k), n)
    slopes = -rng.uniform(0.005, 0.03, (k, k)) - np.diag(rng.uniform(0.04, 0.12, k))
    logs = rng.uniform(0.6, 1.2, k) + np.log(weights + 0.01) @ slopes.T
    return MixtureRuns.of(weights, np.exp(logs + noise * rng.standard_normal((n, k))))


def check_mixture_law(name: str) -> None:
    """Every check of a member of MIXTURE_LAWS with its default settings."""
    law, runs = MIXTURE_LAWS[name](), planted(noise=0.002)
    fit = law.fit(runs)
    assert law.formula, "a law has a formula"
    assert law.source, "a law has a source"
    for what in (law, fit):
        try:
            what.law = None
        except FrozenInstanceError:
            continue
        raise AssertionError(f"{type(what).__name__} is not a frozen dataclass")
    _predicts(fit, runs)
    order = np.random.default_rng(1).permutation(len(runs))
    assert_allclose(law.fit(runs.take(order)).predict(runs.weights), fit.predict(runs.weights), rtol=1e-9)
    other = law.fit(replace(runs, losses=2 * runs.losses))
    assert_allclose(
        other.predict(runs.weights), 2 * fit.predict(runs.weights), rtol=1e-9, err_msg="another unit"
    )
    if law.is_smooth:
        w = runs.weights[0]
        rise = [fit.predict(w + 1e-6 * e) - fit.predict(w - 1e-6 * e) for e in np.eye(len(w))]
        assert_allclose(fit.jacobian(w), np.transpose(rise) / 2e-6, rtol=1e-5, atol=1e-7, err_msg="the slope")
    least = law.least_mixtures(len(runs.domains))
    if least > 1:
        _refused(law, runs.take(np.arange(least - 1)), "mixtures")
        still = runs.weights.copy()
        still[:, 0], still[:, 1] = 0.25, runs.weights[:, 0] + runs.weights[:, 1]
        still[:, 1:] *= 0.75 / still[:, 1:].sum(axis=1, keepdims=True)
        _refused(law, replace(runs, weights=still), runs.domains[0])


def _predicts(fit, runs: MixtureRuns) -> None:
    every = fit.predict(runs.weights)
    assert every.shape == runs.losses.shape
    assert np.isfinite(every).all()
    assert (every > 0).all()
    assert fit.predict(runs.weights[0]).shape == (len(runs.targets),)
    assert_allclose(fit.predict(runs.weights[0]), every[0])
    assert json.dumps(every.tolist())
    corners = fit.predict(np.eye(len(runs.domains)))
    assert np.isfinite(corners).all(), "a share of 0 has a loss"


def _refused(law, runs: MixtureRuns, word: str) -> None:
    refused = None
    try:
        law.fit(runs)
    except FitError as error:
        refused = error
    assert refused is not None, "it was not refused"
    assert refused.where, "a refusal says where"
    assert refused.fix, "a refusal says what to do"
    assert word in refused.problem, refused.problem
