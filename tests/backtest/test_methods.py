"""Every forecasting method keeps the contract, and answers are refused that cannot be scored."""

from dataclasses import replace

import numpy as np
import pytest

from scalelab.backtest import METHODS, REFERENCE
from scalelab.backtest.base import LEVELS, Answer, ForecastQuestion
from scalelab.errors import FitError
from scalelab.laws.observations import Observations
from scalelab.testing.methods import TRUTH, check_method, simulated_runs

BUDGETS = {"farseer": 9}  # seven runs each, and its law asks for 60


@pytest.mark.parametrize("name", list(METHODS))
def test_it_keeps_the_contract(name):
    answer = check_method(name, budgets=BUDGETS.get(name, 4))

    assert (answer.low is None) == (name in ("persistence", "log_linear"))
    assert (answer.sizes is None) == (name in ("persistence", "log_linear", "farseer"))


def test_the_reference_is_a_method():
    assert REFERENCE in METHODS


def test_chinchilla_answers_with_the_law_that_made_the_runs():
    evidence, larger = simulated_runs()
    C = larger.C.max()
    question = ForecastQuestion(larger.N, larger.D, larger.C, np.array([C]))
    a, b = TRUTH["alpha"], TRUTH["beta"]
    best = (a * TRUTH["A"] / (b * TRUTH["B"])) ** (1 / (a + b)) * (C / 6) ** (b / (a + b))

    answer = METHODS["chinchilla"]().forecast(evidence, question)

    truth = TRUTH["E"] + TRUTH["A"] / larger.N**a + TRUTH["B"] / larger.D**b
    assert answer.loss == pytest.approx(truth, rel=0.005)
    assert answer.sizes == pytest.approx(best, rel=0.5)
    assert (answer.low[-1] < answer.loss).all()
    assert (answer.loss < answer.high[-1]).all()


def test_the_default_is_the_study_itself():
    from scalelab.study.study import study

    evidence, larger = simulated_runs()
    C = float(larger.C.max())
    found = study(evidence, target_flops=C, param_count="total", level=0.8, replicates=400)

    answer = METHODS["default"]().forecast(
        evidence, ForecastQuestion(larger.N[:1], larger.D[:1], larger.C[:1], np.array([C]))
    )

    k = LEVELS.index(0.8)
    assert answer.sizes[0] == pytest.approx(found.forecast.values["n_params"])
    assert [answer.size_low[k, 0], answer.size_high[k, 0]] == pytest.approx(
        found.forecast.intervals["n_params"]
    )
    low, high = found.forecast.intervals["loss"]
    assert answer.high[k, 0] / answer.low[k, 0] == pytest.approx(high / low)
    assert answer.trusted == (found.verdict.grade != "do not rely")


def test_the_hull_holds_every_law_in_it():
    evidence, larger = simulated_runs()
    question = ForecastQuestion(larger.N, larger.D, larger.C, np.array([larger.C.max()]))

    hull = METHODS["hull"]().forecast(evidence, question)

    for name in ("chinchilla", "kaplan", "softmax"):
        answer = METHODS[name]().forecast(evidence, question)
        assert (hull.low <= answer.low * (1 + 1e-9)).all()
        assert (hull.high >= answer.high * (1 - 1e-9)).all()


def test_a_method_without_evidence_refuses():
    evidence, larger = simulated_runs()
    question = ForecastQuestion(larger.N, larger.D, larger.C, np.zeros(0))
    one_size = Observations.of(np.full(9, 1e7), np.geomspace(1e8, 1e10, 9), np.linspace(4, 3, 9))

    with pytest.raises(FitError, match="N spans"):
        METHODS["chinchilla"]().forecast(one_size, question)
    with pytest.raises(FitError, match="isoFLOP budget"):
        METHODS["isoflop"]().forecast(one_size, question)
    with pytest.raises(FitError, match="plane"):
        METHODS["log_linear"]().forecast(evidence.take(np.arange(3)), question)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"loss": np.ones(2)}, "loss has shape"),
        ({"loss": np.array([1.0, np.nan, 2.0])}, "loss is not finite for 1 of 3"),
        ({"loss": np.array([1.0, -1.0, 2.0])}, "loss is not positive for 1 of 3"),
        ({"low": np.ones((2, 3))}, "low has shape"),
        ({"sizes": np.array([np.inf])}, "sizes is not finite"),
        ({"expected_error": np.full(3, np.nan)}, "expected_error is not finite"),
    ],
)
def test_an_answer_that_cannot_be_scored_is_refused(change, problem):
    question = ForecastQuestion(np.ones(3), np.ones(3), np.ones(3), np.ones(1))
    good = Answer(LEVELS, np.ones(3), sizes=np.ones(1))
    good.checked(question, "mine")

    with pytest.raises(FitError, match=problem):
        replace(good, **change).checked(question, "mine")


def test_intervals_are_quantiles_of_draws():
    question = ForecastQuestion(np.ones(1), np.ones(1), np.ones(1), np.zeros(0))

    answer = Answer.of(question, np.array([0.5]), np.linspace(0, 1, 1001)[:, None])

    assert answer.low[:, 0] == pytest.approx([0.25, 0.2, 0.15, 0.1, 0.05])
    assert answer.high[:, 0] == pytest.approx([0.75, 0.8, 0.85, 0.9, 0.95])
