"""The gate: which forecasts are not frozen, except with a stated reason, and the warnings of those that are.

    reach beyond TOO_FAR        no forecast is trusted that far
    the grade "do not rely"     something is broken or missing that intervals do not cover

A refused forecast can still be shown: the answer is then marked as one not to rely on. Only what was
frozen is launched, and the reach is checked again then.

Not here: the grade (study/verdict.py), the record (frozen.py).
"""

from scalelab.errors import PlanError
from scalelab.study.verdict import FAR, GRADES, MISSED, TOO_FAR
from scalelab.units import multiple


def refusals(reach: float, grade: str) -> tuple[str, ...]:
    """Return the reasons for which a forecast is not frozen without a stated reason.

    Args:
        reach: Compute of the run as a multiple of the largest in evidence.
        grade: Grade of the forecast, one of verdict.GRADES.
    """
    if found := too_far(reach):
        return found
    return ("the verdict on the forecast is: do not rely on it",) if grade == GRADES[2] else ()


def too_far(reach: float) -> tuple[str, ...]:
    """Return the reason that a run reaches too far beyond the evidence; empty where it does not."""
    if reach <= TOO_FAR:
        return ()
    return (
        f"the run reaches {multiple(reach)} beyond the largest compute in evidence; no forecast "
        f"is trusted past {multiple(TOO_FAR)}",
    )


def gate(reach: float, grade: str, holdout_failed: bool | None, override: str | None) -> tuple[str, ...]:
    """Return the warnings before a launch, one sentence each. They are part of a frozen forecast.

    Args:
        reach: Compute of the run as a multiple of the largest in evidence.
        grade: Grade of the forecast, one of verdict.GRADES.
        holdout_failed: Whether the error of the hold-out exceeds MISSED; None without a hold-out.
        override: Reason for a launch that the gate refuses; None for no override.

    Raises:
        PlanError: The reach is beyond TOO_FAR or the grade is the lowest, without an override, or the
            override has no reason.
    """
    refuse(refusals(reach, grade), override)
    return gate_warnings(reach, grade, holdout_failed, override)


def refuse(reasons: tuple[str, ...], override: str | None) -> None:
    """Refuse a forecast for which there are reasons against it and none to override them.

    Raises:
        PlanError: There is a reason and no override, or the override has no reason.
    """
    refuse_empty_override(override)
    if reasons and override is None:
        raise PlanError(
            "; ".join(reasons),
            where="the gate of the forecast",
            fix="add the runs that `scalelab plan` names to the evidence, or give a reason to launch "
            'anyway: --override "REASON"',
        )


def refuse_empty_override(override: str | None) -> None:
    """Refuse an override without a reason.

    Raises:
        PlanError: The override is empty.
    """
    if override is not None and not override.strip():
        raise PlanError(
            "an override without a reason",
            where="--override",
            fix='give a reason, which the ledger records: --override "REASON"',
        )


def gate_warnings(
    reach: float, grade: str, holdout_failed: bool | None, override: str | None
) -> tuple[str, ...]:
    """Return the warnings of a forecast that is frozen, or that would be, one sentence each.

    Args:
        reach: Compute of the run as a multiple of the largest in evidence.
        grade: Grade of the forecast, one of verdict.GRADES.
        holdout_failed: Whether the error of the hold-out exceeds MISSED; None without a hold-out.
        override: Reason for a launch that the gate refuses; None for no override.
    """
    found = []
    past = "" if override is None else f"; overridden: {override}"
    if reach > TOO_FAR:
        found.append(
            f"the run reaches {multiple(reach)} beyond the evidence, past the limit of {multiple(TOO_FAR)}{past}"
        )
    elif reach > FAR:
        found.append(
            f"the run reaches {multiple(reach)} beyond the evidence; published forecasts that held "
            "went to about 300x"
        )
    if holdout_failed is None:
        found.append("there is no hold-out, so the error of these laws on larger runs was not measured")
    elif holdout_failed:
        found.append(f"the error of the hold-out loss exceeds {MISSED:.0%}")
    if grade == GRADES[2]:
        found.append(f"the verdict on the forecast is: do not rely on it{past if reach <= TOO_FAR else ''}")
    return tuple(found)
