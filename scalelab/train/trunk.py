"""A trunk: the steps that runs of one size and seed share, trained once.

    trunk, at the step where a branch leaves it  ->  a checkpoint in the branch's own run directory

A branch resumes from it as any run resumes from its own checkpoints, so it is the same run to the last bit as
one that is trained by itself: weights, moments, step and the sums of the losses are in the checkpoint, and the
points of its curves before it are measured by the trunk, at the branch's own steps. A branch without such a
checkpoint (its trunk diverged or failed, or the checkpoint is damaged) trains those steps itself.

Symbols: n steps of a branch, s the step where it leaves its trunk (WSD.stable_end). A trunk ends at the largest s.

The checkpoint goes when the branch has its result, with the branch's others. The trunk's own checkpoints go
when it has served its branches; its journal stays.

Not here: the steps (loop.py), which runs share a trunk (recipe.py), jobs (launch/trunk_jobs.py).
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from scalelab.errors import RunError
from scalelab.files import make_dir
from scalelab.leases import LeaseTaken, holder
from scalelab.train.branch import Branch
from scalelab.train.checkpoints import unsharded
from scalelab.train.checkpoints.unsharded import BranchProgress, Progress
from scalelab.train.curve_points import evaluation_steps, log_interval
from scalelab.train.run_directory import LEASE, RunDir
from scalelab.train.spec import RunSpec


class Branches:
    """The branches that a trunk still has to serve, and their curves so far.

    Args:
        trunk: Directory of the trunk.
        dirs: Directories of its branches.

    Raises:
        RunError: A run is not a branch of this trunk, or leaves it after its end.
    """

    def __init__(self, trunk: RunDir, dirs: Sequence[RunDir]):
        spec = trunk.spec()
        branches = [Branch(dir, dir.spec()) for dir in dirs]
        for branch in branches:
            _refuse_unrelated(trunk, spec, branch)
        self.waiting = [branch for branch in branches if not branch.is_served]
        self.trunk_run = trunk.run
        self._log_every = {b.dir.run: log_interval(b.spec.n_steps) for b in self.waiting}
        self._eval_at = {b.dir.run: evaluation_steps(b.spec) for b in self.waiting}
        self.is_at_end = False
        self._counted = 0

    @property
    def last_step(self) -> int:
        """Steps after which the last branch leaves; 0 without any."""
        return max((branch.step for branch in self.waiting), default=0)

    @property
    def eval_at(self) -> set[int]:
        """Steps after which a branch measures a validation loss on the way."""
        return {step for branch in self.waiting for step in evaluation_steps(branch.spec)}

    @property
    def is_served(self) -> bool:
        """Whether no branch needs the trunk any more."""
        return all(branch.is_served for branch in self.waiting)

    def can_resume(self, progress: Progress) -> bool:
        """Whether going on from here takes fewer steps than beginning again, branches that are past it included.

        Those train their steps of the trunk themselves. One that another process has taken needs none.
        """
        reached = [branch.step for branch in self.waiting if _reaches(progress, branch)]
        missing = [
            branch.step
            for branch in self.waiting
            if not _reaches(progress, branch) and holder(branch.dir.path, LEASE) is None
        ]
        go_on = max(reached, default=progress.step) - progress.step + sum(missing)
        return not missing or go_on <= max(reached + missing)

    def begin(self, progress: Progress) -> None:
        """Take up the curves from where the trunk stands, of the branches that it can serve from there."""
        if progress.step:
            self.waiting = [branch for branch in self.waiting if _reaches(progress, branch)]
        waiting = [branch.dir.run for branch in self.waiting]
        progress.branches = {run: progress.branches.get(run, BranchProgress()) for run in waiting}
        self._counted = progress.step

    def logs_at(self, step: int) -> bool:
        """Whether a branch logs its training loss after this step."""
        return any(step % every == 0 for every in self._log_every.values())

    def leaves_at(self, step: int) -> bool:
        """Whether a branch leaves the trunk after this step."""
        return any(branch.step == step for branch in self.waiting)

    def count(self, progress: Progress, loss_sum: float) -> None:
        """Add training losses to every curve.

        Args:
            progress: Of the trunk.
            loss_sum: Sum over the steps since the last call, nats per token.
        """
        steps, self._counted = progress.step - self._counted, progress.step
        for found in progress.branches.values():
            found.loss_sum += loss_sum
            found.loss_steps += steps

    def log(self, progress: Progress, n_tokens: int) -> None:
        """Add a point to the curve of training losses of each branch that logs after this step."""
        for run, found in progress.branches.items():
            if progress.step % self._log_every[run] == 0 and found.loss_steps:
                found.train_curve.append([progress.step, n_tokens, found.loss_sum / found.loss_steps])
                found.loss_sum, found.loss_steps = 0.0, 0

    def evaluate(self, progress: Progress, n_tokens: int, loss: float, seconds: float) -> None:
        """Add a validation loss to each branch that measures one after this step.

        Args:
            progress: Of the trunk.
            n_tokens: Training tokens so far.
            loss: Validation loss on the tokens of points on the way, nats per token.
            seconds: Seconds that it took.
        """
        for run, found in progress.branches.items():
            if progress.step in self._eval_at[run]:
                found.curve.append([progress.step, n_tokens, loss])
                found.eval_s += seconds

    def leave(self, progress: Progress, state: Callable[[], dict[str, Tensor]]) -> list[str]:
        """Write a checkpoint into the directory of each branch that leaves here. Returns their ids.

        One whose directory another process has taken is left out: it is being trained by itself.

        Args:
            progress: Of the trunk, its losses counted.
            state: Returns weights and the optimizer's state by name.

        Raises:
            RunError: A checkpoint cannot be written.
        """
        served = []
        for branch in self.waiting:
            if branch.step != progress.step or branch.is_served:
                continue
            try:
                with branch.dir.claimed() as (dir, _):
                    make_dir(dir.checkpoints)
                    found = _of_branch(progress, progress.branches[dir.run], self.trunk_run)
                    unsharded.save(dir.checkpoints, dir.run, found, state(), dir.guard)
            except LeaseTaken:
                continue
            served.append(branch.dir.run)
        return served


def _reaches(progress: Progress, branch: Branch) -> bool:
    """Whether a trunk that stands there can serve a branch: it is not past it, and has its curves so far."""
    return branch.dir.run in progress.branches and progress.step <= branch.step


def _of_branch(progress: Progress, found: BranchProgress, trunk_run: str) -> Progress:
    """Where a branch stands as it leaves its trunk."""
    return Progress(
        step=progress.step,
        loss_sum=found.loss_sum,
        loss_steps=found.loss_steps,
        curve=found.curve,
        train_curve=found.train_curve,
        train_s=progress.train_s,
        eval_s=found.eval_s,
        micro_rows=progress.micro_rows,
        n_resumes=progress.n_resumes,
        first_steps=progress.first_steps,
        first_steps_s=progress.first_steps_s,
        trunk=trunk_run,
        trunk_steps=progress.step,
    )


def _refuse_unrelated(trunk: RunDir, spec: RunSpec, branch: Branch) -> None:
    fix = "run the sweep again, which plans its trunks anew"
    if branch.spec.branch_step is None or branch.spec.trunk(spec.n_steps) != spec:
        raise RunError(
            f"run {branch.dir.run} is not a branch of trunk {trunk.run}: they differ in more than the cooldown",
            where=str(branch.dir.spec_path),
            fix=fix,
        )
    if branch.step > spec.n_steps:
        raise RunError(
            f"branch {branch.dir.run} of {branch.spec.n_steps} steps leaves its trunk after step {branch.step}, and "
            f"the trunk {trunk.run} ends at step {spec.n_steps}",
            where=str(branch.dir.spec_path),
            fix=fix,
        )
