"""What a forecasting method is asked, and what it answers.

    class Mine(ForecastMethod):
        summary, source = "...", "..."
        def forecast(self, evidence, question): return Answer.of(question, loss=..., draws=...)

A method sees the smaller runs of a table (Observations) and a question: sizes and tokens of larger
runs whose loss is asked for, and budgets whose best size is asked for. It answers with one number
each and, where it has them, both ends of central intervals at every level of the question.

A method whose constants come from tables (a calibration, a choice of variants) has been made with
the tables that it is scored on. `calibrate` makes the constants anew from other cases, so that each
family of tables is scored with constants that it had no part in.

Symbols: N parameters, D training tokens, C training FLOPs, m runs asked for, b budgets asked for,
k levels, r draws.

Not here: the cases (cases.py), the scores (scores.py), the methods (methods/).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np

from scalelab.errors import FitError
from scalelab.laws.observations import Array, Observations

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)
"""Levels of the intervals that every method is asked for."""


@dataclass(frozen=True, eq=False)
class ForecastQuestion:
    """Runs whose loss, and budgets whose best size, a method is asked to forecast."""

    N: Array
    """Parameters of each run, shape (m,)."""
    D: Array
    """Training tokens of each run, shape (m,)."""
    C: Array
    """Training FLOPs of each run, shape (m,)."""
    budgets: Array
    """FLOPs whose best size is asked for, shape (b,)."""
    levels: tuple[float, ...] = LEVELS
    """Levels of the intervals, 0 to 1, ascending."""
    level: float = 0.8
    """The level that counts, one of `levels`."""
    seed: int = 0
    """Seed of whatever a method draws."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What a method forecasts. Intervals that it does not have are None."""

    levels: tuple[float, ...]
    loss: Array
    """Loss of each run, nats per token or the table's own unit, shape (m,)."""
    low: Array | None = None
    """Lower ends, shape (k, m)."""
    high: Array | None = None
    sizes: Array | None = None
    """Best size at each budget, parameters, shape (b,); None: the method has none."""
    size_low: Array | None = None
    """Lower ends, shape (k, b)."""
    size_high: Array | None = None
    expected_error: Array | None = None
    """Error of the loss that the method expects, as a share, shape (m,); None: not stated."""
    trusted: bool | None = None
    """Whether the method says that its forecast may be relied on; None: it does not judge itself."""
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        question: ForecastQuestion,
        loss: Array,
        draws: Array | None = None,
        sizes: Array | None = None,
        size_draws: Array | None = None,
        **other: Any,
    ) -> Self:
        """Return the answer whose intervals are quantiles of draws.

        Args:
            question: What was asked.
            loss: Loss of each run, shape (m,).
            draws: Losses as they could as well be, shape (r, m); None: no intervals.
            sizes: Best size at each budget, shape (b,); None: the method has none.
            size_draws: Draws of it, shape (r, b); None: no intervals.
            other: Other fields of the answer.
        """
        low, high = _ends(question.levels, draws)
        size_low, size_high = _ends(question.levels, size_draws)
        return cls(
            question.levels,
            np.asarray(loss, float),
            low,
            high,
            None if sizes is None else np.asarray(sizes, float),
            size_low,
            size_high,
            **other,
        )

    def checked(self, question: ForecastQuestion, method: str) -> Self:
        """Return the answer, or refuse one that does not fit the question.

        Args:
            question: What was asked.
            method: Name of the method, for the message.

        Raises:
            FitError: A shape is wrong, or a number is not finite and positive.
        """
        k, m, b = len(question.levels), len(question.N), len(question.budgets)
        shapes = {
            "loss": (m,),
            "low": (k, m),
            "high": (k, m),
            "sizes": (b,),
            "size_low": (k, b),
            "size_high": (k, b),
            "expected_error": (m,),
        }
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value is None and name != "loss":
                continue
            value = np.asarray(value, float)
            if value.shape != shape:
                problem = f"{name} has shape {value.shape}, not {shape}"
            elif not np.isfinite(value).all():
                problem = (
                    f"{name} is not finite for {int(np.sum(~np.isfinite(value)))} of {value.size} numbers"
                )
            elif name != "expected_error" and (value <= 0).any():
                problem = f"{name} is not positive for {int(np.sum(value <= 0))} of {value.size} numbers"
            else:
                continue
            raise FitError(
                f"the forecast of {method} cannot be scored: {problem}",
                where=f"{m} runs and {b} budgets that were asked for",
                fix="let the method raise FitError where it has no forecast",
            )
        return self

    def scaled(
        self, factors: Sequence[float], size_factors: Sequence[float] | None = None, error_factor: float = 1.0
    ) -> Self:
        """Return the answer with its intervals wider or narrower by a factor, in the logarithm.

        Args:
            factors: For each level, what the distance of both ends from the forecast is multiplied by.
            size_factors: The same for the best sizes; None: unchanged.
            error_factor: What the expected error is multiplied by.
        """
        found = self
        if self.expected_error is not None:
            found = replace(found, expected_error=error_factor * self.expected_error)
        if self.low is not None and self.high is not None:
            low, high = _stretched(self.loss, self.low, self.high, factors)
            found = replace(found, low=low, high=high)
        if size_factors is not None and self.sizes is not None and self.size_low is not None:
            assert self.size_high is not None
            low, high = _stretched(self.sizes, self.size_low, self.size_high, size_factors)
            found = replace(found, size_low=low, size_high=high)
        return found


@dataclass(frozen=True, eq=False)
class AnsweredCase:
    """An answer beside what came true."""

    table: str
    family: str
    answer: Answer
    reach: Array
    """C of each run over the largest in evidence, shape (m,)."""
    loss: Array
    """Loss that was measured, shape (m,)."""
    size_reach: Array
    """Each budget over the largest compute in evidence, shape (b,)."""
    sizes: Array
    """Best size that was observed, parameters, shape (b,)."""


Recalibration = Callable[[Answer], Answer]
"""Replaces what of an answer depends on constants that were made from tables."""


class ForecastMethod(ABC):
    """One way to forecast. Subclasses are final, and made without arguments."""

    summary: ClassVar[str]
    """What it does, in one line."""
    source: ClassVar[str]
    """Where it comes from."""

    @abstractmethod
    def forecast(self, evidence: Observations, question: ForecastQuestion) -> Answer:
        """Return the forecast of larger runs from smaller ones.

        Args:
            evidence: The smaller runs.
            question: What is asked.

        Raises:
            FitError: The runs allow no forecast; the message says why.
        """

    def calibrate(self, others: Sequence[AnsweredCase]) -> Recalibration | None:
        """Return what replaces constants made from tables by such from other cases.

        Args:
            others: Its answers to cases of other families, beside what came true.

        Returns:
            What is applied to its answers to the family left out; None for a method without such constants.
        """
        return None


def _ends(levels: Sequence[float], draws: Array | None) -> tuple[Array | None, Array | None]:
    if draws is None:
        return None, None
    draws = np.asarray(draws, float)
    tails = (1 - np.asarray(levels)) / 2
    return np.quantile(draws, tails, axis=0), np.quantile(draws, 1 - tails, axis=0)


def _stretched(middle: Array, low: Array, high: Array, factors: Sequence[float]) -> tuple[Array, Array]:
    by = np.asarray(factors, float)[:, None]
    return middle * np.exp(by * np.log(low / middle)), middle * np.exp(by * np.log(high / middle))
