"""A plane of ln L over ln N and ln D, the larger runs weighted by their compute.

    ln L = c - a ln N - b ln D,   weights C / Cmax

It has no floor, so far beyond the evidence it looks too low. N* does not exist in it.

Symbols: N parameters, D tokens, C FLOPs, L loss.
"""

from dataclasses import dataclass

import numpy as np

from scalelab.backtest.base import Answer, ForecastMethod, ForecastQuestion
from scalelab.errors import FitError
from scalelab.laws.observations import Observations

LEAST_RUNS = 4


@dataclass(frozen=True)
class LogLinearForecast(ForecastMethod):
    """Weighted least squares of ln L."""

    summary = "a plane of ln L over ln N and ln D, weighted by compute"
    source = "none: a baseline"

    def forecast(self, evidence: Observations, question: ForecastQuestion) -> Answer:
        """See `ForecastMethod`."""
        if len(evidence) < LEAST_RUNS:
            raise FitError(
                f"{len(evidence)} runs do not determine a plane",
                where="the evidence",
                fix=f"give at least {LEAST_RUNS} runs",
            )
        x = np.stack([np.ones(len(evidence)), np.log(evidence.N), np.log(evidence.D)], axis=1)
        root = np.sqrt(evidence.C / evidence.C.max())
        plane, *_ = np.linalg.lstsq(x * root[:, None], np.log(evidence.L) * root, rcond=None)
        asked = np.stack([np.ones(len(question.N)), np.log(question.N), np.log(question.D)], axis=1)
        return Answer.of(question, np.exp(asked @ plane))
