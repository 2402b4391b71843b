"""A forecasting method of another package: the last slope of the frontier goes on.

    ln L(C) = ln L_last - slope ln(C / C_last)

with the slope between the lowest losses of the two largest decades of compute. The interval is an
assumption: the slope between zero and twice what was seen, at every level.
"""

from dataclasses import dataclass

import numpy as np

from scalelab.backtest.base import Answer, ForecastMethod, ForecastQuestion
from scalelab.errors import FitError
from scalelab.laws.observations import Observations


@dataclass(frozen=True)
class LocalSlope(ForecastMethod):
    """The frontier of the last decade, continued."""

    summary = "the slope of the last decade of the frontier goes on"
    source = "an example of a forecasting method"

    def forecast(self, evidence: Observations, question: ForecastQuestion) -> Answer:
        """Forecast the loss at the compute of each run."""
        end = evidence.C.max()
        early, late = end / 10 >= evidence.C, end / 10 < evidence.C
        if not early.any() or not late.any():
            raise FitError(
                f"{len(evidence)} runs span less than a decade of compute",
                where="the evidence",
                fix="give runs of a tenth of the largest compute too",
            )
        i, j = (np.flatnonzero(which)[np.argmin(evidence.L[which])] for which in (early, late))
        slope = max(-np.log(evidence.L[j] / evidence.L[i]) / np.log(evidence.C[j] / evidence.C[i]), 0.0)
        ahead = np.log(question.C / evidence.C[j])
        loss = evidence.L[j] * np.exp(-slope * ahead)
        ends = evidence.L[j] * np.exp(-np.outer([2 * slope, 0.0], ahead))
        k = len(question.levels)
        return Answer(question.levels, loss, np.tile(ends[0], (k, 1)), np.tile(ends[1], (k, 1)))
