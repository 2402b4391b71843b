"""How far to trust a forecast: one grade, and every reason for it.

    sound            within these bounds nothing speaks against it
    with caution     a plan may start from it, with the reasons in view
    do not rely      something is broken or missing that intervals do not cover

The bounds are conventions, each with its reason beside it. A forecast is at best as good as
its hold-out: no in-sample figure can raise a grade.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scalelab.laws.base import LawFit, Replicates
from scalelab.laws.forecast import Forecast, SeedNoise
from scalelab.laws.holdout import HoldOut
from scalelab.laws.interval import TOO_MANY_FAILED
from scalelab.laws.isoflop import IsoFlopFit

FAR, TOO_FAR = 100.0, 1000.0  # reach; published forecasts that held went to about 300
MISSED, FAILED = 0.01, 0.03  # hold-out error of the loss; 1% of loss is tens of % of compute
SPREAD = 0.02  # spread of the forecast loss between laws and forms
WIDE = 3.0  # ratio of the ends of N*'s interval; x3 wastes about a third of the compute

GRADES = ("sound", "with caution", "do not rely")


@dataclass(frozen=True)
class Verdict:
    """A grade of GRADES and the reasons for it, gravest first."""

    grade: str
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        meaning = {
            "sound": "sound: nothing in the evidence speaks against it",
            "with caution": "with caution",
            "do not rely": "do not rely on this forecast",
        }[self.grade]
        return f"{meaning}: {'; '.join(self.reasons)}" if self.reasons else meaning


def judge(
    forecast: Forecast,
    fits: Mapping[str, LawFit],
    refused: Mapping[str, str],
    drawn: Mapping[str, Replicates | None],
    tested: HoldOut | str,
    noise: SeedNoise | None,
) -> Verdict:
    """The grade of a forecast."""
    grave, doubts = _of_the_speaker(forecast, fits[forecast.law], drawn[forecast.law])
    more_grave, more_doubts = _of_the_test(forecast, tested)
    grave, doubts = grave + more_grave, doubts + more_doubts
    if forecast.reach > TOO_FAR:
        grave.append(f"the target is {forecast.reach:.0f}x the largest compute in evidence")
    elif forecast.reach > FAR:
        doubts.append(f"the target is {forecast.reach:.0f}x the largest compute in evidence")
    low, high = _rival_losses(forecast, fits[forecast.law])
    if high > low * (1 + SPREAD):
        doubts.append(f"laws and forms differ by {high / low - 1:.1%} in the forecast loss")
    low, high = forecast.structural["n_params"]
    if high > 1.5 * low:
        doubts.append(f"laws differ {high / low:.1f}x in N*")
    for name, fit in fits.items():
        if name not in forecast.candidates:
            doubts.append(f"{name} has no optimum at the target that can be written down")
        if name != forecast.law:
            doubts += [f"{name}: {warning}" for warning in fit.warnings]
    doubts += [f"{name} refused: {why}" for name, why in refused.items()]
    if noise is None:
        doubts.append("no run was repeated with another seed, so seed noise is unknown")
    grade = GRADES[2] if grave else GRADES[1] if doubts else GRADES[0]
    return Verdict(grade, tuple(grave + doubts))


def _rival_losses(forecast: Forecast, fit: LawFit) -> tuple[float, float]:
    """The lowest and highest forecast loss among laws, and among forms while none is decided.

    Where four minima or more show a floor, the power law without one is the refuted special
    case: it is drawn and told, and does not count against the forecast.
    """
    decided = not isinstance(fit, IsoFlopFit) or fit.form == "floor"
    said = [c["loss"] for c in forecast.candidates.values() if "n_params" in c or not decided]
    return min(said), max(said)


def _of_the_speaker(
    forecast: Forecast, fit: LawFit, drawn: Replicates | None
) -> tuple[list[str], list[str]]:
    """What the law that speaks knows against itself: grave reasons, and doubts."""
    grave = list(fit.broken)
    doubts = [warning for warning in fit.warnings if warning not in fit.broken]
    if isinstance(fit, IsoFlopFit) and len(fit.minima) < 4:
        doubts.append(f"the trend rests on {len(fit.minima)} minima")
    if not all(np.isfinite(v) and v > 0 for v in forecast.values.values()):
        grave.append("the forecast is not a positive number")
    if drawn is None:
        grave.append("no interval: the parabolas leave no residual to judge the noise by")
        return grave, doubts
    doubts += drawn.notes
    share = drawn.failed / drawn.asked
    if share > TOO_MANY_FAILED:
        grave.append(f"no interval: {share:.0%} of bootstrap replicates failed")
    elif share > 0.05:
        doubts.append(f"{share:.0%} of bootstrap replicates failed")
    interval = forecast.intervals["n_params"]
    if interval is not None and interval[1] > WIDE * interval[0]:
        doubts.append(f"the interval of N* spans {interval[1] / interval[0]:.1f}x")
    if interval is None and share <= TOO_MANY_FAILED:
        doubts.append(f"{drawn.asked} replicates are too few for an interval")
    return grave, doubts


def _of_the_test(forecast: Forecast, tested: HoldOut | str) -> tuple[list[str], list[str]]:
    if isinstance(tested, str):
        return [], [f"no hold-out: {tested}"]
    error = tested.mean_abs_rel_error.get(forecast.law)
    if error is None:
        return [], [f"no hold-out of {forecast.law}: {tested.refused[forecast.law]}"]
    grave, doubts = [], []
    said = f"missed the held-out loss by {error:.1%} at {tested.reach:.3g}x"
    if error > FAILED:
        grave.append(said)
    elif error > MISSED:
        doubts.append(said)
    if forecast.reach > tested.reach**2:  # twice as far, in powers of ten, as was ever tested
        doubts.append(
            f"the hold-out tested a reach of {tested.reach:.3g}x, "
            f"the target asks {forecast.reach:.3g}x"
        )
    return grave, doubts
