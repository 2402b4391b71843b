"""Separate runs beside branches of trunks, to see whether a branch is as good as the run that it stands for.

A separate run has the batch, rates, cooldown and seed of its branch, and its own warmup: that share of its own
steps. Where the two warmups are equal the runs are equal to the last bit, so the shortest branch of a trunk is
never chosen. Separate runs are compared, and never fitted.

Not here: the comparison (launch/trunk_validation.py).
"""

from dataclasses import replace

from scalelab.errors import ConfigError
from scalelab.sweep.base import Proposal


def with_validation(proposals: tuple[Proposal, ...], count: int) -> tuple[Proposal, ...]:
    """Return the runs of a design, and separate runs for some of its branches, spread evenly in compute.

    Args:
        proposals: Runs of the design.
        count: Number of separate runs; 0 for none.

    Raises:
        ConfigError: There are fewer branches whose separate run would differ.
    """
    if not count:
        return proposals
    candidates = sorted((p for p in proposals if _differs(p)), key=lambda p: p.flops)
    if len(candidates) < count:
        raise ConfigError(
            f"validate_trunks asks for {count} separate runs, and there are {len(candidates)} branches that differ "
            "from theirs",
            where="design.validate_trunks",
            fix="set recipe.schedule.trunk to true, ask for fewer, or plan more token counts of a size",
        )
    last = len(candidates) - 1
    chosen = [candidates[round(i * last / max(1, count - 1))] for i in range(count)]
    return (*proposals, *(_separate(p) for p in chosen))


def _differs(proposal: Proposal) -> bool:
    spec = proposal.spec
    if spec.branch_step is None:
        return False
    return spec.schedule.phases(spec.n_steps) != spec.schedule.alone().phases(spec.n_steps)


def _separate(proposal: Proposal) -> Proposal:
    spec = proposal.spec
    alone = spec.model_copy(update={"schedule": spec.schedule.alone()})
    return replace(proposal, spec=alone, validates=spec.id)
