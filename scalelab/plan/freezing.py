"""Reasons for which the forecast of a plan is shown and not frozen, each with a fix.

    inside the evidence     nothing to extrapolate: runs of that size were measured
    the gate                the reach or the grade; the runs that would change that, and their cost
    an unreliable surface   the choice of N and D rests on a law that the runs do not support
    the corpus              it is shorter than the run
    the recipe              it has no model of that size

A plan that is not frozen has its numbers and no run, so it cannot be launched. A stated reason
(--override) freezes it all the same where a run can be made at all.

Not here: the gate (forecast/gate.py), the plan (planner.py).
"""

from collections.abc import Iterable
from dataclasses import dataclass

from scalelab.errors import ConfigError
from scalelab.plan.choose.allocate import ROUNDED, kind_at
from scalelab.plan.choose.constrained_optimum import ConstrainedOptimum
from scalelab.plan.choose.needed_evidence import NeededEvidence, needed_evidence
from scalelab.plan.forecast.frozen import FrozenForecast
from scalelab.plan.forecast.gate import refusals, too_far
from scalelab.plan.plan import FinalModel
from scalelab.plan.source import PlanSource
from scalelab.study.study import Study
from scalelab.units import sci, si

TO_FREEZE, OR_REASON = "; to freeze it, ", '; or give a reason: --override "REASON"'
"""Words of a note of a plan between a reason and its fix, and at the end of a fix."""


@dataclass(frozen=True)
class FreezeRefusal:
    """A reason for which a forecast is not frozen."""

    reason: str
    fix: str
    is_doubt: bool = True
    """Whether the numbers are not to be relied on."""
    overridable: bool = True
    """Whether a stated reason freezes the forecast all the same."""

    def __str__(self) -> str:
        fix = f"{self.fix}{OR_REASON}" if self.overridable else self.fix
        return f"{self.reason}{TO_FREEZE}{fix}"


def noted_refusals(notes: Iterable[str]) -> list[tuple[str, str]]:
    """Return the reasons and fixes among the notes of a plan that was read from its file."""
    found = (note.partition(TO_FREEZE) for note in notes)
    return [(reason, fix) for reason, marker, fix in found if marker]


def evidence_refusals(
    study: Study, source: PlanSource, forecast: FrozenForecast, chosen: ConstrainedOptimum | None
) -> list[FreezeRefusal]:
    """Return the reasons that lie in the evidence.

    Args:
        study: The laws at the compute of the run.
        source: The evidence.
        forecast: The forecast of the run.
        chosen: Variant whose N and D rest on a surface; None where they are the optimum or given.
    """
    found = []
    largest = source.observations.largest_budget
    flops = forecast.actual["flops"]
    if kind_at(study, flops) == "extrapolated" and forecast.reach <= ROUNDED:
        found.append(
            FreezeRefusal(
                f"{sci(flops)} FLOPs are less than the smallest budget in evidence, so the laws were tested "
                "on larger runs only",
                f"set --budget above {sci(largest)}",
            )
        )
    elif forecast.reach <= ROUNDED:
        measured = (
            ""
            if source.argument is None
            else f", or read the measured results: scalelab fit {source.argument}"
        )
        found.append(
            FreezeRefusal(
                f"{sci(flops)} FLOPs are no more than the largest compute in evidence, "
                f"{sci(largest)}: there is nothing to extrapolate",
                f"set --budget above {sci(largest)}{measured}",
                is_doubt=False,
            )
        )
    doubts = list(refusals(forecast.reach, forecast.grade))
    if doubts and not too_far(forecast.reach):
        doubts = [f"{doubts[0]}: {study.verdict.reasons[0]}"]
    if chosen is not None and chosen.doubt is not None:
        doubts.append(f"N and D rest on the {chosen.law} surface, which is unreliable: {chosen.doubt}")
    if doubts:
        fix = f"add to the evidence {needed_runs(study, source, flops)}"
        found += [FreezeRefusal(reason, fix) for reason in doubts]
    return found


def needed_runs(study: Study, source: PlanSource, flops: float) -> NeededEvidence:
    """Return the runs that would support a forecast, timed by the throughput of the evidence where known."""
    pace = source.throughput
    return needed_evidence(study, flops, pace and pace.flops_per_s, pace and pace.device)


def short_corpus(source: PlanSource, final: FinalModel) -> FreezeRefusal | None:
    """Return the reason that a run reads its corpus more often than its recipe allows; None: it does not."""
    available, allowed = source.unique_tokens, final.spec.data.epochs
    if available is None or final.n_tokens <= available * allowed:
        return None
    return FreezeRefusal(
        f"the run needs {si(final.n_tokens)} training tokens, the corpus has {si(available)}: "
        f"{final.n_tokens / available:.3g} epochs, where the recipe allows {allowed:g}",
        f"plan with repeats: --unique-tokens {available}; or add text, or reduce the budget",
        is_doubt=False,
        overridable=False,
    )


def no_such_model(error: ConfigError) -> FreezeRefusal:
    """Return the reason that a recipe has no run of the planned size."""
    return FreezeRefusal(
        f"the recipe has no run of this size: {error.problem}", error.fix, is_doubt=False, overridable=False
    )
