"""Nothing gets better: the lowest loss so far. The error that every other method has to beat."""

from dataclasses import dataclass

import numpy as np

from scalelab.backtest.base import Answer, ForecastMethod, ForecastQuestion
from scalelab.laws.observations import Observations


@dataclass(frozen=True)
class PersistenceForecast(ForecastMethod):
    """The lowest loss of the evidence, whatever is asked for."""

    summary = "the lowest loss so far"
    source = "none: a baseline"

    def forecast(self, evidence: Observations, question: ForecastQuestion) -> Answer:
        """See `ForecastMethod`."""
        return Answer.of(question, np.full(len(question.N), evidence.L.min()))
