"""Mixture laws: recovered where they hold, best within bounds, and refused without evidence."""

from dataclasses import replace
from math import exp, log
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from scalelab.errors import FitError
from scalelab.laws.mixture import MIXTURE_LAWS
from scalelab.laws.mixture.base import MixtureRuns
from scalelab.laws.mixture.linear import Linear
from scalelab.laws.mixture.log_log import OFFSETS, LogLog, _least_squares
from scalelab.laws.mixture.nearest import Mean, Nearest
from scalelab.laws.mixture.recommendation import (
    MixtureRequest,
    best_mixture,
    epochs_cap,
    project,
    recommend,
    unseen_error,
)
from scalelab.laws.mixture.validation import compare_laws, errors, leave_one_out, transfers
from scalelab.testing.mixture_laws import check_mixture_law, planted

SHARED = Path(__file__).parents[3] / "shared" / "data" / "domain_mixture.csv"


@pytest.mark.parametrize("name", list(MIXTURE_LAWS))
def test_it_conforms(name):
    check_mixture_law(name)


def test_a_planted_law_predicts_mixtures_that_it_has_not_seen():
    runs = planted(n=40)
    fit = LogLog().fit(runs.take(np.arange(24)))

    assert fit.offsets.tolist() == [0.01] * 4
    assert_allclose(fit.predict(runs.weights[24:]), runs.losses[24:], rtol=1e-9)


def test_the_constants_are_those_of_the_law():
    rng = np.random.default_rng(3)
    weights = rng.dirichlet(np.ones(3), 12)
    slopes = np.array([[-0.2, -0.01, -0.02], [0.0, -0.1, 0.03]])
    logs = np.stack(
        [a + np.log(weights + c) @ b for a, c, b in zip([0.5, 0.9], [0.005, 0.03], slopes, strict=True)], 1
    )
    fit = LogLog().fit(MixtureRuns.of(weights, np.exp(logs)))

    assert fit.offsets.tolist() == [0.005, 0.03]
    assert_allclose(fit.intercepts, [0.5, 0.9], atol=1e-9)
    assert_allclose(fit.coefficients, slopes, atol=1e-9)


@pytest.mark.parametrize("n_seeds", [1, 2, 3])
def test_the_offset_is_that_of_the_least_error_of_mixtures_left_out(n_seeds):
    """The closed form against fits without each mixture, that is without all its runs."""
    once = planted(n=9, k=3, noise=0.02)  # errors of the fit itself would choose others
    runs = once.take(np.repeat(np.arange(len(once)), n_seeds))
    noise = np.exp(0.005 * np.random.default_rng(0).standard_normal(runs.losses.shape))
    runs = replace(runs, losses=runs.losses * noise)
    fit = LogLog().fit(runs)

    by_hand = [(np.log(leave_one_out(LogLog(offset=c), runs) + 1) ** 2).sum(axis=0) for c in OFFSETS]

    assert fit.offsets.tolist() == [OFFSETS[i] for i in np.argmin(by_hand, axis=0)]
    scores = [
        _least_squares(runs.weights, np.log(runs.losses), c, runs.mixture)[1]
        for c in (OFFSETS[0], OFFSETS[5])
    ]
    assert_allclose(scores, [by_hand[0], by_hand[5]])


def test_the_baselines_are_what_they_say():
    runs = MixtureRuns.of([[0.5, 0.5], [0.2, 0.8], [0.9, 0.1]], [[2.0], [4.0], [1.0]])

    assert_allclose(Nearest().fit(runs).predict([0.25, 0.75]), [4.0])
    assert_allclose(Nearest().fit(runs).predict([0.35, 0.65]), [8**0.5])  # between two
    assert_allclose(Mean().fit(runs).predict([[0.1, 0.9]]), [[2.0]])
    line = MixtureRuns.of([[0.5, 0.5], [0.2, 0.8], [0.9, 0.1]], np.exp([[1.5], [1.8], [1.1]]))
    assert_allclose(Linear().fit(line).predict([0.0, 1.0]), [exp(2.0)])


def test_the_best_of_two_domains_is_the_closed_form():
    """F = e^a (w1 + c)^-p (w2 + c)^-q is least where (w1 + c) / (w2 + c) = p / q."""
    p, q, c = 0.06, 0.02, 0.01
    w1 = np.linspace(0.05, 0.95, 9)
    weights = np.column_stack([w1, 1 - w1])
    fit = LogLog(offset=c).fit(MixtureRuns.of(weights, np.exp(1 + np.log(weights + c) @ [[-p], [-q]])))

    best = best_mixture(fit, np.ones(1), np.zeros(2), np.ones(2))

    assert_allclose(best[0], p / (p + q) * (1 + 2 * c) - c, atol=1e-4)
    assert_allclose(best_mixture(fit, np.ones(1), np.zeros(2), np.array([0.6, 1.0]))[0], 0.6, atol=1e-6)


def test_a_projection_is_the_nearest_point():
    w = project(np.array([0.9, 0.4, 0.1]), np.zeros(3), np.array([0.5, 1.0, 1.0]))

    assert_allclose(w, [0.5, 0.4, 0.1], atol=1e-9)
    assert_allclose(project(np.array([0.7, 0.7, -0.2]), np.zeros(3), np.ones(3)), [0.5, 0.5, 0.0], atol=1e-9)


def test_the_cap_is_where_a_repeated_token_is_worth_what_was_asked():
    assert_allclose(exp(-(epochs_cap(0.8) - 1) / 15.387756), 0.8)
    assert epochs_cap(1.0) == 1.0


def test_repetition_caps_a_domain():
    runs = planted(noise=0.002)
    free = recommend(LogLog(), runs, MixtureRequest(replicates=0))
    top = int(np.argmax(free.weights))
    few = 0.5 * float(free.weights[top]) * 1e6 / epochs_cap()

    capped = recommend(
        LogLog(), runs, MixtureRequest(unique_tokens={runs.domains[top]: few}, n_tokens=1e6, replicates=0)
    )

    assert_allclose(capped.weights[top], 0.5 * free.weights[top], rtol=1e-6)
    assert capped.at_bound[runs.domains[top]] == "repetition cap"
    assert_allclose(capped.epochs[runs.domains[top]], 1 - 15.387756 * log(0.8))
    assert capped.loss > free.loss


def test_a_recommendation_lies_within_the_evidence_and_pays():
    runs = planted(noise=0.002)
    found = recommend(LogLog(), runs, MixtureRequest(replicates=60))

    assert_allclose(found.weights.sum(), 1)
    assert (found.weights >= runs.weights.min(axis=0) - 1e-9).all()
    assert (found.weights <= runs.weights.max(axis=0) + 1e-9).all()
    assert (found.intervals[:, 0] <= found.weights).all()
    assert (found.weights <= found.intervals[:, 1]).all()
    assert found.loss_interval[0] <= found.natural_loss
    assert found.pays
    assert found.gain == pytest.approx(found.natural_loss - found.loss)
    assert recommend(LogLog(), runs, MixtureRequest(replicates=60)).loss_interval == found.loss_interval


def test_a_mixture_of_pure_noise_does_not_pay():
    rng = np.random.default_rng(5)
    runs = MixtureRuns.of(rng.dirichlet(np.ones(3), 15), np.exp(1 + 0.01 * rng.standard_normal((15, 3))))

    assert not recommend(LogLog(), runs, MixtureRequest(replicates=100)).pays


def test_an_interval_is_no_narrower_than_errors_on_unseen_mixtures():
    """A normal error is within .6745 standard deviations half of the time, and within 1.6449 in 90%."""
    runs, v = planted(noise=0.002), np.full(4, 0.25)
    off = np.abs(leave_one_out(LogLog(), runs) * runs.losses @ v)
    found = recommend(LogLog(), runs, MixtureRequest(replicates=20))

    error = unseen_error(LogLog(), runs, v, 0.9)

    assert error == pytest.approx(np.median(off) / 0.67449 * 1.64485, rel=1e-4)
    assert found.loss_interval[0] <= found.loss - error
    assert found.gain_interval[1] >= found.gain + error


def test_targets_may_be_weighed():
    runs = planted()
    first = recommend(LogLog(), runs, MixtureRequest(target_weights={"domain 1": 1}, replicates=0))

    assert first.weights[0] == pytest.approx(runs.weights[:, 0].max(), abs=1e-3)


def test_laws_are_compared_on_mixtures_that_were_left_out():
    runs = planted(noise=0.001)
    found = compare_laws(runs, None)

    assert found["log_log"] < 0.005 < found["linear"]
    assert found["log_log"] < found["nearest"]
    assert leave_one_out(LogLog(), runs).shape == (24, 4)
    assert_allclose(
        compare_laws(runs.take(np.arange(20)), runs.take(np.arange(20, 24)))["mean"],
        np.abs(errors(Mean(), runs.take(np.arange(20)), runs.take(np.arange(20, 24)))).mean(),
    )


def test_too_few_mixtures_leave_a_law_without_an_error():
    assert compare_laws(planted(n=6), None)["log_log"] is None


def test_a_mixture_that_transfers_has_no_regret():
    runs = planted()
    larger = MixtureRuns.of(runs.weights, 0.9 * runs.losses)

    (small, back), _ = transfers(LogLog(), {"1M": runs, "10M": larger}, MixtureRequest())

    assert (small.chosen_at, small.judged_at, small.n_common) == ("1M", "10M", 24)
    assert small.rank_correlation == pytest.approx(1)
    assert abs(small.regret) < 1e-5
    assert small.gain > 0
    assert back.judged_at == "1M"


@pytest.mark.parametrize(
    ("weights", "losses", "said"),
    [
        ([[0.5, 0.4]], [[2.0, 2.0]], "the shares sum to 0.9, not 1"),
        ([[1.5, -0.5]], [[2.0, 2.0]], "the share of domain 2 is -0.5"),
        ([[0.5, np.nan]], [[2.0, 2.0]], "the share of domain 2 is nan"),
        ([[0.5, 0.5]], [[2.0, 0.0]], "the loss of domain 2 is 0"),
    ],
)
def test_what_is_no_mixture_is_refused(weights, losses, said):
    with pytest.raises(FitError, match=said):
        MixtureRuns.of(weights, losses)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"target_weights": {"prose": 1}}, "'prose' is no target"),
        ({"natural": {"domain 1": 0}}, "not all 0"),
        ({"unique_tokens": {"prose": 1e6}, "n_tokens": 1e6}, "'prose', which is no domain"),
        ({"unique_tokens": {"domain 1": 1e6}}, "without training tokens"),
        (
            {
                "unique_tokens": dict.fromkeys(("domain 1", "domain 2", "domain 3", "domain 4"), 1e4),
                "n_tokens": 1e6,
            },
            "for 18% of the run",
        ),
    ],
)
def test_what_cannot_be_chosen_is_refused(request_, said):
    with pytest.raises(FitError, match=said):
        recommend(LogLog(), planted(), MixtureRequest(replicates=0, **request_))


def test_a_law_without_a_best_mixture_recommends_none():
    with pytest.raises(FitError, match="Nearest has no best mixture"):
        recommend(Nearest(), planted())


def test_domains_that_only_vary_together_are_refused():
    w = np.linspace(0.1, 0.4, 8)
    with pytest.raises(FitError, match="only vary together"):
        LogLog(offset=0.01).fit(MixtureRuns.of(np.column_stack([w, w, 1 - 2 * w]), np.ones((8, 1))))


@pytest.mark.skipif(not SHARED.exists(), reason="the published runs are not here")
def test_six_held_out_mixtures_of_published_runs_are_predicted_within_one_percent():
    rows = np.genfromtxt(SHARED, delimiter=",", names=True, dtype=None, encoding="utf-8")
    found = {name: [] for name in MIXTURE_LAWS}
    for size in np.unique(rows["group"]):
        sides = []
        for split in ("train", "test"):
            these = rows[(rows["group"] == size) & (rows["split"] == split)]
            parts = [
                np.column_stack([these[f"{what}_domain_{k}"] for k in range(1, 6)])
                for what in ("proportion", "loss")
            ]
            sides.append(MixtureRuns.of(*parts))
        for name, error in compare_laws(*sides).items():
            found[name].append(error)

    mean = {name: np.mean(errors) for name, errors in found.items()}
    assert mean["log_log"] < 0.006
    assert 0.03 < mean["linear"] < mean["nearest"] < mean["mean"]
