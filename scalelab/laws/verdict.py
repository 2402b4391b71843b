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
from scalelab.laws.holdout import TOLERANCE, HoldOut
from scalelab.laws.interval import TOO_MANY_FAILED

FAR, TOO_FAR = 100.0, 1000.0  # reach; published forecasts that held went to about 300
MISSED, FAILED = 0.01, 0.03  # hold-out error of the loss; 1% of loss is tens of % of compute
SPREAD = 0.02  # spread of the forecast loss between the members that count
SIZES = 1.5  # ratio of the sizes that they say; x1.5 wastes about 6% of the compute
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
    concerns: tuple[str, ...],
    asked: int,
) -> Verdict:
    """The grade of a forecast.

    Args:
        forecast: What is judged.
        fits: By law; its own and the others.
        refused: Laws that could not be fitted, and why.
        drawn: Replicates of each law.
        tested: The hold-out.
        noise: Between seeds.
        concerns: Doubts about the evidence itself.
        asked: Bootstrap replicates that were asked for.
    """
    grave, doubts = _of_the_speaker(forecast, fits[forecast.law], drawn[forecast.law], asked)
    more_grave, more_doubts = _of_the_test(forecast, tested)
    grave, doubts = grave + more_grave, doubts + more_doubts + list(concerns)
    if forecast.reach > TOO_FAR:
        grave.append(f"the target is {forecast.reach:.0f}x the largest compute in evidence")
    elif forecast.reach > FAR:
        doubts.append(f"the target is {forecast.reach:.0f}x the largest compute in evidence")
    doubts += _of_the_spread(forecast.structural)
    if not forecast.structural:
        grave.append("the runs speak against every law that was fitted")
    answered = {m.name: m for m in forecast.members if m.kind == "law"}
    for name, fit in fits.items():
        if name == forecast.law or not fit.exponents:
            continue
        if name not in answered:
            doubts.append(f"{name} has no optimum at the target that can be written down")
        elif answered[name].refuted is None or fit.broken:
            doubts += [f"{name}: {warning}" for warning in fit.warnings]
    doubts += [f"{name} refused: {why}" for name, why in refused.items()]
    if noise is None:
        doubts.append("no run was repeated with another seed, so seed noise is unknown")
    grade = GRADES[2] if grave else GRADES[1] if doubts else GRADES[0]
    return Verdict(grade, tuple(dict.fromkeys(grave + doubts)))


def _of_the_spread(structural: Mapping[str, list[float]]) -> list[str]:
    """What the choice of law leaves open."""
    found = []
    low, high = structural.get("loss", (1.0, 1.0))
    if high > low * (1 + SPREAD):
        found.append(f"laws and forms differ by {high / low - 1:.1%} in the forecast loss")
    low, high = structural.get("n_params", (1.0, 1.0))
    if high > SIZES * low:
        found.append(f"laws and choices differ {high / low:.1f}x in N*")
    return found


def _of_the_speaker(
    forecast: Forecast, fit: LawFit, drawn: Replicates | None, asked: int
) -> tuple[list[str], list[str]]:
    """What the law that speaks knows against itself: grave reasons, and doubts."""
    grave = list(fit.broken)
    doubts = [warning for warning in fit.warnings if warning not in fit.broken]
    if fit.slices and len(fit.minima) < 4:
        doubts.append(f"the trend rests on {len(fit.minima)} minima")
    mine = next(m for m in forecast.members if m.name == forecast.law)
    if mine.refuted and not fit.broken:
        grave.append(f"{forecast.law} {mine.refuted}")
    if not all(np.isfinite(v) and v > 0 for v in forecast.values.values()):
        grave.append("the forecast is not a positive number")
    if not asked:
        return grave, [*doubts, "no interval: no bootstrap replicate was asked for"]
    if drawn is None:
        grave.append("no interval: there is nothing from which to judge the noise")
        return grave, doubts
    doubts += drawn.notes
    share = drawn.failed / drawn.asked
    if share > TOO_MANY_FAILED:
        grave.append(f"no interval: {share:.0%} of bootstrap replicates failed")
    elif share > 0.05:
        doubts.append(f"{share:.0%} of bootstrap replicates failed")
    interval = forecast.statistical["n_params"]
    if interval is not None and interval[1] > WIDE * interval[0]:
        doubts.append(f"the interval of N* spans {interval[1] / interval[0]:.1f}x")
    if interval is None and share <= TOO_MANY_FAILED:
        doubts.append(f"{drawn.asked} replicates are too few for an interval")
    return grave, doubts


def _of_the_test(forecast: Forecast, tested: HoldOut | str) -> tuple[list[str], list[str]]:
    if isinstance(tested, str):
        return [], [f"no hold-out: {tested}"]
    grave: list[str] = []
    doubts: list[str] = []
    last, fold = tested.last.get(forecast.law), tested.trusted_fold(forecast.law)
    if last is None:
        doubts.append(f"no hold-out of {forecast.law}: {tested.refused.get(forecast.law, '?')}")
    elif last.error > MISSED:
        said = f"missed the held-out loss by {last.error:.1%} at {last.fold:.3g}x"
        (grave if last.error > FAILED else doubts).append(said)
    if fold is not None and forecast.reach > fold:
        error = tested.expected_error(forecast.law, forecast.reach)
        said = (
            f"the hold-outs support about {fold:.2g}-fold (loss within {TOLERANCE:.0%}), "
            f"the target asks {forecast.reach:.3g}-fold: expect a miss of about {error:.1%}"
        )
        (grave if error > 2 * TOLERANCE else doubts).append(said)
    return grave, doubts
