"""The forecast of `scalelab fit` and `scalelab plan`, asked as a user would ask it.

The laws, the primary law, the hold-out, the interval and the verdict are those of `study`, with its
defaults. It forecasts the loss at the best size of a budget. A run asked for is near that size: its
loss is what the primary law says of its N and D, and the interval is the one quoted for its compute,
as a share of the loss. The expected error is the one that is shown: calibrated, or of the hold-out.

Not here: the study (study/study.py), laws one by one (single_law.py).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from scalelab.backtest.base import Answer, AnsweredCase, ForecastMethod, ForecastQuestion, Recalibration
from scalelab.backtest.calibration import rescaled
from scalelab.backtest.methods.single_law import losses
from scalelab.laws import LAWS
from scalelab.laws.observations import Array, Observations
from scalelab.laws.uncertainty.bootstrap import trusted
from scalelab.study.forecast import Forecast, calibrated_ends
from scalelab.study.holdout import HoldOut
from scalelab.study.study import Study, study

REPLICATES = 400
"""Bootstrap replicates of each law; `scalelab fit` draws 4000, which moves the ends by a few percent of
the width and takes ten times as long."""


@dataclass(frozen=True)
class DefaultForecast(ForecastMethod):
    """What scalelab itself forecasts."""

    summary = "the default forecast of scalelab fit and plan"
    source = "scalelab"

    def forecast(self, evidence: Observations, question: ForecastQuestion) -> Answer:
        """See `ForecastMethod`."""
        targets = [float(C) for C in (*question.C, *question.budgets)]
        found = study(
            evidence,
            target_flops=max(targets),
            param_count="total",
            flop_count="6ND",
            level=question.level,
            replicates=REPLICATES,
            seed=question.seed,
        )
        primary = found.fits[found.forecast.law]
        at = {C: dict(_forecasts(found, C, question.levels)) for C in dict.fromkeys(targets)}
        loss = losses(primary, question)
        low, high = _relative(loss, [at[float(C)] for C in question.C], question.levels, "loss")
        sizes = size_low = size_high = None
        if len(question.budgets):
            chosen = [at[float(C)] for C in question.budgets]
            sizes = np.array([each[question.level].values["n_params"] for each in chosen])
            size_low, size_high = _relative(sizes, chosen, question.levels, "n_params")
        return Answer(
            question.levels,
            loss,
            low,
            high,
            sizes,
            size_low,
            size_high,
            _expected(found, [at[float(C)][question.level] for C in question.C], question),
            found.verdict.grade != "do not rely",
            (f"{found.forecast.law}; {found.verdict.grade}",),
        )

    def calibrate(self, others: Sequence[AnsweredCase]) -> Recalibration | None:
        """Return what gives the intervals, whose widths were frozen from public tables, those of other cases."""
        return rescaled(others)


def _forecasts(found: Study, target: float, levels: Sequence[float]) -> Iterator[tuple[float, Forecast]]:
    """The forecast at a target at each level, from the fits that the study has.

    The spread of the laws has no level; the noise and the calibrated interval are read at each.
    """
    forecast = found.forecast
    if target != forecast.flops:
        laws = {name: LAWS[name]() for name in found.fits}
        forecast = Forecast.of(
            found.runs, laws, found.fits, found.replicates, target, found.level, found.others
        )
    drawn, primary = found.replicates[forecast.law], found.fits[forecast.law]
    best = None if drawn is None else drawn.optimum(target)
    for level in levels:
        if level == found.level or drawn is None or best is None:
            yield level, forecast
            continue
        readings = {"n_params": best.N, "loss": best.L}
        noise = {name: trusted(drawn, value, level) for name, value in readings.items()}
        width = primary.calibrated(target, level)
        ends = {} if width is None else calibrated_ends(forecast.values, width, primary.cost, target)
        yield (
            level,
            replace(forecast, statistical={**forecast.statistical, **noise}, width=width, calibrated=ends),
        )


def _relative(
    middle: Array, forecasts: Sequence[dict[float, Forecast]], levels: Sequence[float], quantity: str
) -> tuple[Array | None, Array | None]:
    """The quoted intervals (k, m) around other numbers, as shares; None where one is not quoted."""
    low, high = np.ones((2, len(levels), len(middle)))
    for j, at in enumerate(forecasts):
        for i, level in enumerate(levels):
            interval, value = at[level].intervals[quantity], at[level].values[quantity]
            if interval is None:
                return None, None
            low[i, j], high[i, j] = interval[0] / value, interval[1] / value
    return middle * low, middle * high


def _expected(found: Study, at: Sequence[Forecast], question: ForecastQuestion) -> Array | None:
    """Return the error that is shown to users for each run; None where none is shown.

    That of the calibrated interval where the primary law has one, else that of the hold-out.
    """
    if all(forecast.expected_error is not None for forecast in at):
        return np.array([forecast.expected_error for forecast in at], float)
    if not isinstance(found.holdout, HoldOut):
        return None
    end = found.fits[found.forecast.law].evidence_end
    errors = [found.holdout.expected_error(found.forecast.law, float(C) / end) for C in question.C]
    return None if any(error is None for error in errors) else np.array(errors, float)
