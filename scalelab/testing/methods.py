"""Conformance of forecasting methods: members of METHODS, of any package."""

from contextlib import suppress

import numpy as np

from scalelab.backtest import METHODS
from scalelab.backtest.base import Answer, AnsweredCase, ForecastMethod, ForecastQuestion
from scalelab.errors import FitError
from scalelab.laws.observations import Array, Observations

TRUTH = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}
NOISE = 0.002
"""Standard deviation of ln L, as between two seeds."""
LADDER = 9e7
"""The size near the best one of 1e18 FLOPs, parameters; four times the budget doubles the best size."""
NEAR = 0.2
"""|ln error| at four times the compute of a simulated table beyond which a method forecasts something else."""


def check_method(name: str, near: float = NEAR, budgets: int = 4) -> Answer:
    """Check the contract of a forecasting method, and return its answer.

    Args:
        name: Name in the table of methods.
        near: |ln error| that it may make at four times the compute of simulated runs.
        budgets: Budgets of seven simulated runs each; more for a method that asks for more runs.

    Raises:
        AssertionError: It is not made without arguments, describes itself in no words, changes its evidence,
            answers in other shapes, with intervals that do not contain its forecast or that narrow as the level
            grows, answers otherwise the second time, is far off, raises another error than FitError for two
            runs, or recalibrates into another forecast of the loss.
    """
    method = METHODS[name]()
    assert isinstance(method, ForecastMethod), f"{name} is {type(method).__name__}"
    assert method.summary, f"{name} has no summary"
    assert "\n" not in method.summary, f"{name} has a summary of several lines"
    assert method.source, f"{name} names no source"
    evidence, larger = simulated_runs(budgets)
    question = ForecastQuestion(larger.N, larger.D, larger.C, np.array([larger.C.max()]))
    before = evidence.L.copy()
    answer = method.forecast(evidence, question).checked(question, name)
    assert np.array_equal(before, evidence.L), f"{name} changes the runs that it is given"
    error = np.abs(np.log(answer.loss / larger.L))
    assert error.max() < near, f"{name} is off by {error.max():.0%} at four times the compute"
    _check_intervals(name, answer)
    again = method.forecast(evidence, question)
    assert np.array_equal(answer.loss, again.loss), f"{name} answers otherwise the second time"
    assert answer.low is None or np.array_equal(answer.low, again.low), f"{name}: its interval changes"
    with suppress(FitError):  # whatever else is raised is a mistake of the method
        method.forecast(evidence.take(np.arange(2)), question)
    _check_calibration(name, method, answer, larger)
    return answer


def simulated_runs(budgets: int = 4) -> tuple[Observations, Observations]:
    """Return runs of a Chinchilla law, seven sizes of a ladder at each isoFLOP budget, and three larger runs.

    Args:
        budgets: Budgets, from 1e18 FLOPs up by a factor of four; the larger runs are at the next one.
    """
    step = np.repeat(np.arange(budgets), 7)
    sizes = LADDER * 2.0 ** (step + np.tile(np.arange(-3, 4), budgets))
    larger = LADDER * 2.0 ** (budgets + np.array([-0.5, 0, 0.5]))
    rng = np.random.default_rng(0)
    evidence = _runs(1e18 * 4.0**step, sizes, rng)
    return evidence, _runs(np.full(3, 1e18 * 4.0**budgets), larger, rng)


def _runs(budgets: Array, sizes: Array, rng: np.random.Generator) -> Observations:
    a, b = TRUTH["alpha"], TRUTH["beta"]
    tokens = budgets / (6 * sizes)
    loss = TRUTH["E"] + TRUTH["A"] / sizes**a + TRUTH["B"] / tokens**b
    loss = loss * np.exp(NOISE * rng.standard_normal(len(loss)))
    return Observations.of(sizes, tokens, loss, flops_planned=budgets)


def _check_intervals(name: str, answer: Answer) -> None:
    for what, middle, low, high in (
        ("loss", answer.loss, answer.low, answer.high),
        ("best size", answer.sizes, answer.size_low, answer.size_high),
    ):
        if middle is None or low is None or high is None:
            continue
        assert (low <= high).all(), f"{name}: the interval of the {what} ends before it begins"
        assert (np.diff(low, axis=0) <= 1e-12 * middle).all(), (
            f"{name}: a higher level gives a narrower {what}"
        )
        assert (np.diff(high, axis=0) >= -1e-12 * middle).all(), (
            f"{name}: a higher level gives a narrower {what}"
        )


def _check_calibration(name: str, method: ForecastMethod, answer: Answer, larger: Observations) -> None:
    reach, sizes = np.full(len(larger), 4.0), np.zeros(0) if answer.sizes is None else answer.sizes
    other = AnsweredCase("other", "other", answer, reach, larger.L, np.full(len(sizes), 4.0), sizes)
    recalibrate = method.calibrate([other])
    if recalibrate is not None:
        changed = recalibrate(answer)
        assert isinstance(changed, Answer), f"{name} recalibrates into {type(changed).__name__}"
        assert changed.levels == answer.levels, f"{name} recalibrates into other levels"
        assert changed.loss.shape == answer.loss.shape, f"{name} recalibrates into other runs"
