"""How far to trust a forecast: one grade, and every reason for it.

    sound            within these bounds there is no reason against it
    with caution     a plan may start from it, with the reasons in view
    do not rely      something is broken or missing that intervals do not cover

The bounds are conventions, each with its reason beside it. A forecast is at best as good as
its hold-out: no in-sample figure can raise a grade.

Where the choice of law is part of the quoted interval, doubts about the other laws are doubts about the
forecast. Where the calibrated interval stands alone it is not: then only what another law says of the runs
themselves counts against the forecast, not the shape of its own curve, and not how far it is from the
primary law (analysis/verdict.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scalelab.laws.base import LawFit, Replicates
from scalelab.laws.uncertainty.bootstrap import TOO_MANY_FAILED
from scalelab.study.forecast import Forecast, SeedNoise
from scalelab.study.holdout import TOLERANCE, HoldOut
from scalelab.units import multiple, si

FAR, TOO_FAR = 100.0, 1000.0  # reach; published forecasts that held went to about 300
THIN_REACH, THIN = 30.0, 2.0  # reach beyond which a formula needs as many different points per constant
THINNEST = 1.5  # points per constant up to which no reach beyond FAR is to be relied on
MISSED, FAILED = 0.01, 0.03  # hold-out error of the loss; 1% of loss is tens of % of compute
SPREAD = 0.02  # spread of the forecast loss between the members that count
SIZES = 1.5  # ratio of the sizes that they say; x1.5 wastes about 6% of the compute
SIZES_MISSED = 1.25  # ratio of N* held out to N* forecast; x1.25 wastes 2%, and noise of one minimum is 10%
SELDOM, BENT = 0.05, 1.1  # chance of a bend, and how far it must move N* to be worth a word
WIDE = 3.0  # ratio of the ends of N*'s interval; x3 wastes about a third of the compute

CAUSES = {
    ("N", True): "a learning rate or batch that suits larger models less?",
    ("D", True): "text that repeats, or a schedule that suits longer runs less?",
    ("N", False): "a learning rate or batch that suits smaller models less?",
    ("D", False): "a warmup or schedule that suits shorter runs less?",
}
"""What may make the loss of larger models and longer runs higher (True) or lower than the surface says."""

GRADES = ("sound", "with caution", "do not rely")


@dataclass(frozen=True)
class Verdict:
    """A grade of GRADES and the reasons for it, gravest first."""

    grade: str
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        meaning = {
            "sound": "sound: nothing in the evidence contradicts it",
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
    disqualifying: tuple[str, ...] = (),
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
        disqualifying: Faults of the evidence with which no forecast can be relied on.
    """
    grave, doubts = _of_the_speaker(forecast, fits[forecast.law], drawn[forecast.law], asked)
    more_grave, more_doubts = _of_the_test(forecast, tested)
    grave, doubts = [*disqualifying, *grave, *more_grave], doubts + more_doubts + list(concerns)
    few = _of_few_runs(forecast, fits[forecast.law])
    for more_grave, more_doubts in (few, _of_the_calibration(forecast), _of_the_bend(forecast)):
        grave, doubts = grave + more_grave, doubts + more_doubts
    if forecast.reach > TOO_FAR:
        grave.append(f"the target is {multiple(forecast.reach)} the largest compute in evidence")
    elif forecast.reach > FAR:
        doubts.append(f"the target is {multiple(forecast.reach)} the largest compute in evidence")
    if not forecast.stands_alone:
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
            counted = fit.evidence_warnings if forecast.stands_alone else fit.warnings
            doubts += [f"{name}: {warning}" for warning in counted]
    doubts += [f"{name} refused: {why}" for name, why in refused.items()]
    if noise is None:
        doubts.append("seed noise is unknown: no two runs differ in their seed alone")
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
    """Return the warnings of the primary law: grave reasons, and doubts."""
    grave = list(fit.broken)
    doubts = [warning for warning in fit.warnings if warning not in fit.broken]
    if fit.slices and len(fit.minima) < 4:
        doubts.append(f"the trend rests on {len(fit.minima)} minima")
    mine = next(m for m in forecast.members if m.name == forecast.law)
    if mine.refuted and not fit.broken:
        grave.append(f"{forecast.law}: {mine.refuted}")
    if not all(np.isfinite(v) and v > 0 for v in forecast.values.values()):
        grave.append("the forecast is not a positive number")
    if not asked:
        return grave, [*doubts, "no interval: no bootstrap replicate was asked for"]
    if drawn is None:
        why = fit.not_redrawn or "there is nothing from which to judge the noise"
        grave.append(f"no interval: {why}")
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
        width, doubts = forecast.width, [f"no hold-out: {tested}"]
        if width is None or width.alone:
            return [], doubts
        return [_few_tests(width.origins)], doubts
    grave: list[str] = []
    doubts: list[str] = []
    last, fold = tested.last.get(forecast.law), tested.trusted_fold(forecast.law)
    if last is None:
        doubts.append(f"no hold-out of {forecast.law}: {tested.refused.get(forecast.law, '?')}")
    elif last.error > MISSED:
        said = f"missed the held-out loss by {last.error:.1%} at {multiple(last.fold)}"
        (grave if last.error > FAILED else doubts).append(said)
    if forecast.width is not None and not forecast.width.alone:
        doubts.append(_few_tests(forecast.width.origins))
    size_grave, size_doubts = _of_sizes(forecast, tested)
    grave, doubts = grave + size_grave, doubts + size_doubts
    if forecast.expected_error is None and fold is not None and forecast.reach > fold:
        error = tested.expected_error(forecast.law, forecast.reach)
        said = (
            f"the hold-outs support about {multiple(float(f'{fold:.2g}'))} (loss within {TOLERANCE:.0%}), "
            f"the target asks {multiple(forecast.reach)}: expect an error of about {error:.1%}"
        )
        (grave if error > 2 * TOLERANCE else doubts).append(said)
    return grave, doubts


def _few_tests(origins: int) -> str:
    tests = (
        "1 test inside the evidence shows" if origins == 1 else f"{origins} tests inside the evidence show"
    )
    return f"{tests} too little of how the error grows"


def _of_few_runs(forecast: Forecast, fit: LawFit) -> tuple[list[str], list[str]]:
    """A far reach from few runs: beyond THIN_REACH with fewer than THIN points per constant.

    What the runs leave open is then filled by the prior, or by chance where there is none. Grave beyond FAR with
    at most THINNEST: from 8 runs every law without a prior was off by 8-30% at 330x to 512x on a public table.
    """
    if fit.determined_by is None:
        return [], []
    points, constants = fit.determined_by
    if forecast.reach <= THIN_REACH or points >= THIN * constants:
        return [], []
    said = (
        f"{points} different points hold the {constants} constants of {forecast.law}: at "
        f"{multiple(forecast.reach)} what they leave open makes much of the forecast"
    )
    grave = forecast.reach > FAR and points <= THINNEST * constants
    return ([said], []) if grave else ([], [said])


def _of_the_calibration(forecast: Forecast) -> tuple[list[str], list[str]]:
    """What forecasts of other tables, and tests inside this one, say of the error of the loss."""
    error = forecast.expected_error
    if error is None or error <= TOLERANCE:
        return [], []
    tests = "tests inside the evidence and " if forecast.width is not None and forecast.width.origins else ""
    said = (
        f"the target asks {multiple(forecast.reach)}: expect an error of the loss of about {error:.1%}, by {tests}"
        "forecasts of public tables"
    )
    return ([said], []) if error > FAILED else ([], [said])


def _of_sizes(forecast: Forecast, tested: HoldOut) -> tuple[list[str], list[str]]:
    """What the hold-out says of N*, which can be wrong where the loss is right: it is flat there."""
    grave: list[str] = []
    doubts: list[str] = []
    errors = tested.size_errors(forecast.law)
    if not errors:
        return grave, doubts
    listed = ", ".join(f"{error:+.0%}" for error in errors)
    last = abs(np.log1p(errors[-1]))
    if last > np.log(SIZES_MISSED):
        reason = f"missed N* of the held-out budget by {errors[-1]:+.0%}"
        (grave if last > np.log(SIZES) else doubts).append(reason)
    drift = tested.size_drift(forecast.law, forecast.reach)
    if drift is not None and abs(drift) > np.log(SIZES_MISSED):
        reason = (
            f"N* of the hold-outs drifts to one side ({listed}): at {multiple(forecast.reach)} expect it to be off "
            f"by about {np.expm1(drift):+.0%}"
        )
        (grave if abs(drift) > np.log(SIZES) else doubts).append(reason)
    return grave, doubts


def _of_the_bend(forecast: Forecast) -> tuple[list[str], list[str]]:
    """A surface that the runs leave as a size or a token count grows, and that moves N*."""
    grave: list[str] = []
    doubts: list[str] = []
    for member in forecast.members:
        bend = member.bend
        if bend is None or bend.chance > SELDOM:
            continue
        if member.refuted:
            cause = CAUSES[bend.symbol, bend.coefficient > 0]
            doubts.append(
                f"the loss bends away from the {member.law} surface as {bend.symbol} grows (t = {bend.t:.1f}; "
                f"{cause}); what that means at the target is unknown: {member.refuted}"
            )
            continue
        N = member.values["n_params"]
        moved = abs(np.log(N / forecast.values["n_params"]))
        if moved <= np.log(BENT):
            continue
        cause = CAUSES[bend.symbol, bend.coefficient > 0]
        reason = (
            f"the loss bends away from the {member.law} surface as {bend.symbol} grows (t = {bend.t:.1f}; {cause}); "
            f"with the bend N* is {si(N)}, not {si(forecast.values['n_params'])}"
        )
        (grave if moved > np.log(SIZES) else doubts).append(reason)
    return grave, doubts
