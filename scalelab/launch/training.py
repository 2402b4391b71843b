"""Training in the processes of runs, under the run's lease.

train_run     a run of a sweep: one process
train_shared  a trunk of a sweep, whose branches need it: one process
train_final   a launched run: one process, or several that a layout spreads it over

Not here: how these processes are started and watched (the jobs package).
"""

import warnings
from contextlib import ExitStack
from dataclasses import replace

from scalelab.errors import LaunchError
from scalelab.files import inside
from scalelab.hardware.device import find_device
from scalelab.jobs.base import Outcome
from scalelab.jobs.worker import Assignment
from scalelab.launch.job_settings import FinalSettings
from scalelab.leases import expiry_s, follows
from scalelab.plan.cost.memory import holds_gradients
from scalelab.train.loop import LaunchOptions, train, train_trunk
from scalelab.train.run_directory import LEASE, RunDir

CLAIM_WAIT = 1.5
"""How long to wait for the lease, in times after which a holder counts as gone: another machine's may just
have ended."""


def train_run(assignment: Assignment) -> Outcome:
    """Train a run of a sweep."""
    with assignment.dir.claimed() as (ours, _):
        return "interrupted" if train(ours, assignment.stop) is None else "done"


def train_shared(assignment: Assignment) -> Outcome:
    """Train a trunk, and leave each of its branches a checkpoint.

    Raises:
        LaunchError: The settings name no branches.
    """
    root = assignment.dir.path.parent.parent
    dirs = assignment.settings.get("branches")
    if not isinstance(dirs, list) or not dirs or not all(isinstance(dir, str) for dir in dirs):
        raise LaunchError(
            f"the trunk has no list of branches, but {dirs!r}",
            where=str(assignment.dir.path / "job.json"),
            fix="run the sweep again, which writes the file anew",
        )
    branches = [RunDir(inside(root, dir)) for dir in dirs]
    with assignment.dir.claimed() as (ours, _):
        return "done" if train_trunk(ours, branches, assignment.stop) else "interrupted"


def train_final(assignment: Assignment) -> Outcome:
    """Train this process's part of a launched run.

    The first process holds the run's lease, and the others write under it.

    Raises:
        LaunchError: The settings do not hold, or the layout cannot carry the run.
    """
    settings = FinalSettings.read(assignment.settings, assignment.dir)
    layout, run_dir = settings.layout, assignment.dir
    # A loss that is a view of what FSDP gathered is only read here, never changed in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    with ExitStack() as stack:
        attempt = None
        if assignment.rank == 0:
            run_dir, lease = stack.enter_context(run_dir.claimed(wait_s=CLAIM_WAIT * expiry_s(run_dir.path)))
            attempt = lease.held.attempt
        if layout.devices > 1:
            from scalelab.train.engines.parallel import agree, join

            join(settings.timeouts.start_s, find_device())
            attempt = agree(attempt)
            if assignment.rank > 0:
                run_dir = replace(run_dir, guard=follows(run_dir.path, LEASE, attempt), attempt=attempt)
        start_s = settings.stall_timeout_s + settings.timeouts.start_s
        heartbeat = stack.enter_context(assignment.watchdog(settings.stall_timeout_s, start_s))
        launched = LaunchOptions(
            layout,
            settings.stability,
            settings.checkpoint_s,
            heartbeat,
            settings.timeouts,
            _holds_gradients(settings, run_dir),
        )
        result = train(run_dir, assignment.stop, launched)
        from scalelab.train.checkpoints.sharded import leave  # slow to import; a sweep's runs do without

        leave()
        return "interrupted" if result is None else "done"


def _holds_gradients(settings: FinalSettings, run_dir: RunDir) -> bool:
    """Return whether this process sums gradients with the others once a step, if all of them do."""
    if settings.gradient_sums != "auto":
        return settings.gradient_sums == "step"
    if settings.layout.devices == 1:
        return False
    spec, device = run_dir.spec(), find_device()
    room = device.memory_bytes
    if room is not None and device.kind == "cpu":
        room //= settings.layout.devices  # of one machine, at worst
    return holds_gradients(spec, settings.layout, device.precision(spec.precision), room, device.kind)
