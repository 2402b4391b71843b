"""Branches of trunks beside the separate runs that validate them, once both are trained.

    difference = loss of the branch - loss of the separate run      nats, and in seed standard deviations

The seed standard deviation s is pooled over runs of the sweep that differ in their seed alone, where it has any.

Not here: which branches are compared (sweep/validation.py).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scalelab.launch.sweep_plan import PlannedJob
from scalelab.train.spec import RunResult, RunSpec


@dataclass(frozen=True)
class TrunkValidation:
    """One branch and its separate run, both measured."""

    spec: RunSpec
    """Spec of the branch."""
    branch: float
    """Loss, nats per token."""
    separate: float
    """Loss, nats per token."""

    @property
    def difference(self) -> float:
        """Loss of the branch less that of the separate run, nats per token."""
        return self.branch - self.separate


def validations(work: Sequence[PlannedJob], results: Sequence[RunResult | None]) -> list[TrunkValidation]:
    """Return the pairs of which both have a loss.

    Args:
        work: Runs of a sweep.
        results: Result of each; None for a run without one.
    """
    pairs = [(w.proposal.validates, w.proposal.spec.id) for w in work if w.proposal.validates is not None]
    if not pairs:
        return []
    losses = {
        w.proposal.spec.id: (w.proposal.spec, r.loss)
        for w, r in zip(work, results, strict=True)
        if r is not None and r.loss is not None
    }
    return [
        TrunkValidation(losses[branch][0], losses[branch][1], losses[separate][1])
        for branch, separate in pairs
        if branch in losses and separate in losses
    ]


def seed_sd(work: Sequence[PlannedJob], results: Sequence[RunResult | None]) -> tuple[float, int] | None:
    """Return the pooled standard deviation of losses between seeds, nats, and its degrees of freedom.

    None where no two runs differ in their seed alone. Separate runs that validate a branch do not count.
    """
    cells: dict[str, list[float]] = {}
    for w, r in zip(work, results, strict=True):
        if r is not None and r.loss is not None and w.proposal.validates is None:
            cells.setdefault(w.proposal.spec.model_copy(update={"seed": 0}).id, []).append(r.loss)
    dof = sum(len(found) - 1 for found in cells.values())
    squares = sum((loss - sum(found) / len(found)) ** 2 for found in cells.values() for loss in found)
    return (math.sqrt(squares / dof), dof) if dof and squares else None
