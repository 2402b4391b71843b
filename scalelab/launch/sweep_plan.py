"""A sweep before it starts: every run with its size, steps, cost and state on the disk.

planned   requested by the design, nothing on the disk yet
resumes   started before, continues from its checkpoint
done      trained before, here or by another sweep; never trained again

Not here: how long the runs take (sweep_timing.py).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scalelab.launch import shared_runs
from scalelab.sweep.base import Proposal
from scalelab.train.run_directory import RunDir
from scalelab.train.spec import RunSpec


@dataclass(frozen=True)
class PlannedJob:
    """One proposal with its run directory and the state found there."""

    proposal: Proposal
    run_dir: RunDir
    state: Literal["planned", "resumes", "done"]
    seconds: float | None = None
    """Estimated training time in one slot; None is unknown."""


def place(
    proposals: tuple[Proposal, ...],
    root: Path,
    sweep: str,
    find: Callable[[RunSpec, Path, str], RunDir] = shared_runs.find,
) -> list[PlannedJob]:
    """Return each proposal with its run directory: its own, or that of the sweep that requested it first.

    Args:
        proposals: Runs that the design requests.
        root: Directory of all runs.
        sweep: Name of the requesting sweep.
        find: shared_runs.find writes nothing; shared_runs.settle records the location it found.
    """
    return [_placed(proposal, find(proposal.spec, root, sweep)) for proposal in proposals]


def _placed(proposal: Proposal, run_dir: RunDir) -> PlannedJob:
    if run_dir.is_done:
        return PlannedJob(proposal, run_dir, "done")
    return PlannedJob(proposal, run_dir, "resumes" if run_dir.is_begun else "planned")
