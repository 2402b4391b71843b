"""Trunks of a sweep as jobs: each trains the steps that several runs share, and its branches begin after it.

    work -> groups of branches by trunk -> a job of kind `trunk`, before the jobs of the branches that wait for it

A trunk is planned where two or more branches still lack its checkpoint, or where it has begun. It lies beside
its longest branch. It is done at its last step, when it has left a checkpoint for every branch that no other
process has taken; it has a result only if it diverged. However it ends, branches without their checkpoint then
train by themselves.

Compute: a run's `flops` are those of the whole run, which laws are fitted to. What is planned here counts each
trunk once, as what was spent does (train/spent.py).

Not here: the steps of a trunk (train/trunk.py), which runs share one (train/recipe.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from scalelab.files import is_dir
from scalelab.jobs.base import Job, JobOutcome, JobResources
from scalelab.launch.sweep_plan import PlannedJob
from scalelab.leases import holder
from scalelab.train.branch import Branch
from scalelab.train.memory import run_memory
from scalelab.train.run_directory import LEASE, RunDir
from scalelab.train.spec import RunSpec


@dataclass(frozen=True)
class PlannedTrunk:
    """One trunk with its branches, which are two or more."""

    spec: RunSpec
    """Spec of the whole trunk, to the step where its longest branch leaves it."""
    run_dir: RunDir
    branches: Sequence[PlannedJob]

    @property
    def is_needed(self) -> bool:
        """Whether it is still to be trained, or to be resumed."""
        if self.run_dir.is_done:
            return False
        waiting = self.waiting
        return len(waiting) > 1 or (bool(waiting) and is_dir(self.run_dir.checkpoints))

    @property
    def waiting(self) -> list[PlannedJob]:
        """Branches that have neither their checkpoint of it nor their result."""
        return [w for w in self.branches if not _branch(w).is_served]

    @property
    def flops(self) -> float:
        """Exact training FLOPs of the whole trunk."""
        return _flops(self.spec, self.spec.n_tokens)

    @property
    def seconds(self) -> float | None:
        """Estimated seconds of the whole trunk in one slot; None is unknown."""
        known = [(w.seconds, w.proposal.spec.n_steps) for w in self.branches if w.seconds]
        return known[0][0] / known[0][1] * self.spec.n_steps if known else None

    def job(self) -> Job:
        """Return the job that trains it."""
        root = self.run_dir.path.parent.parent
        return Job(
            self.run_dir.run,
            self.run_dir,
            "trunk",
            resources=JobResources(
                memory=lambda *device: run_memory(self.spec, *device), precision=self.spec.precision
            ),
            settings={"branches": [str(w.run_dir.path.relative_to(root)) for w in self.branches]},
            standing=self._standing,
            leaves_result=False,
        )

    def _standing(self, job: Job) -> JobOutcome | None:
        settled = (_branch(w).is_served or holder(w.run_dir.path, LEASE) is not None for w in self.branches)
        return JobOutcome(job, "done") if job.dir.is_done or all(settled) else None


def trunks_of(work: Sequence[PlannedJob]) -> list[PlannedTrunk]:
    """Return every trunk of two or more runs, whether or not it is still needed."""
    groups: dict[str, list[PlannedJob]] = {}
    for w in work:
        if (trunk := w.proposal.spec.trunk_id) is not None:
            groups.setdefault(trunk, []).append(w)
    found = []
    for branches in groups.values():
        longest = max(branches, key=_leaves)
        spec = longest.proposal.spec.trunk(_leaves(longest))
        if len(branches) > 1:
            found.append(PlannedTrunk(spec, RunDir(longest.run_dir.path.parent / spec.id), branches))
    return found


def flops_left(work: Sequence[PlannedJob]) -> float:
    """Return the FLOPs that are still to be spent on the runs that are not done."""
    shared: set[str] = set()
    total = 0.0
    for trunk in trunks_of(work):
        waiting = trunk.waiting
        if trunk.is_needed:
            shared.update(w.run_dir.run for w in waiting)
            total += _flops(trunk.spec, max(map(_leaves, waiting)) * trunk.spec.batch_tokens)
    for w in work:
        spec = w.proposal.spec
        if w.state != "done":
            is_cooldown = spec.branch_step is not None and (w.run_dir.run in shared or _branch(w).is_served)
            total += _flops(spec, spec.n_tokens - is_cooldown * _leaves(w) * spec.batch_tokens)
    return total


def flops_planned(work: Sequence[PlannedJob]) -> float:
    """Return the FLOPs that all runs take together, each trunk counted once."""
    total = sum(w.proposal.flops for w in work)
    for trunk in trunks_of(work):
        total += trunk.flops - sum(
            _flops(trunk.spec, _leaves(w) * trunk.spec.batch_tokens) for w in trunk.branches
        )
    return total


def _branch(work: PlannedJob) -> Branch:
    return Branch(work.run_dir, work.proposal.spec)


def _leaves(work: PlannedJob) -> int:
    return _branch(work).step


def _flops(spec: RunSpec, n_tokens: int) -> float:
    return spec.model.size(spec.seq_len).flops_per_token * n_tokens
