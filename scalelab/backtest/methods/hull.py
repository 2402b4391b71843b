"""The hull of the laws and of their bootstraps: what a careful person does without a calibration.

The forecast is that of Chinchilla's law; at each level the interval goes from the lowest to the
highest end of the bootstrap intervals of all laws, and over what each of them says.
"""

from dataclasses import dataclass

import numpy as np

from scalelab.backtest.base import Answer, ForecastMethod, ForecastQuestion
from scalelab.backtest.methods.single_law import REPLICATES, best_sizes, loss_draws, losses
from scalelab.errors import FitError
from scalelab.laws import LAWS
from scalelab.laws.observations import Array, Observations

HULL = ("chinchilla", "kaplan", "softmax")
"""The laws, the one that makes the forecast first."""


@dataclass(frozen=True)
class HullForecast(ForecastMethod):
    """Chinchilla's forecast in the hull of three laws and their bootstraps."""

    summary = "Chinchilla in the hull of Chinchilla, Kaplan, soft-max and their bootstraps"
    source = "none: a baseline"

    def forecast(self, evidence: Observations, question: ForecastQuestion) -> Answer:
        """See `ForecastMethod`."""
        answers: list[Answer] = []
        for name in HULL:
            try:
                fit = LAWS[name]().fit(evidence)
            except FitError:
                if name == HULL[0]:
                    raise
                continue
            drawn = fit.replicates(REPLICATES, question.seed)
            sizes, size_draws = best_sizes(fit, drawn, question.budgets)
            draws = loss_draws(fit, drawn, question)
            answers.append(Answer.of(question, losses(fit, question), draws, sizes, size_draws))
        first, k = answers[0], len(question.levels)
        loss = _hull([(a.loss, a.low, a.high) for a in answers], k)
        sizes = _hull([(a.sizes, a.size_low, a.size_high) for a in answers if a.sizes is not None], k)
        return Answer(
            question.levels,
            first.loss,
            *loss,
            first.sizes,
            *(sizes if first.sizes is not None else (None, None)),
        )


def _hull(
    parts: list[tuple[Array | None, Array | None, Array | None]], k: int
) -> tuple[Array, Array] | tuple:
    """Lowest and highest of points and intervals, each (k, m)."""
    every = [np.tile(middle, (k, 1)) for middle, _, _ in parts]
    every += [end for _, low, high in parts for end in (low, high) if end is not None]
    if not every:
        return None, None
    return np.min(every, axis=0), np.max(every, axis=0)
