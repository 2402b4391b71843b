"""What the processes of runs do: train, under the run's lease.

train_run     a run of a sweep: one process
train_final   a launched run: one process, or several that a layout spreads it over

Not here: how these processes are started and watched (the jobs package).
"""

import warnings
from contextlib import ExitStack
from dataclasses import replace

from scalelab.jobs.base import Outcome
from scalelab.jobs.worker import Assignment
from scalelab.launch.settings import FinalSettings
from scalelab.leases import TTL_S, follows
from scalelab.train.device import find_device
from scalelab.train.loop import Launched, train
from scalelab.train.rundir import LEASE
from scalelab.train.sharded import leave

CLAIM_S = 1.5 * TTL_S
"""How long to wait for the lease: the run may have been another machine's a moment ago."""
JOIN_TIMEOUT_S = 120.0
"""How long processes wait for one another before they take one for dead."""


def train_run(assignment: Assignment) -> Outcome:
    """Train a run of a sweep."""
    with assignment.dir.claimed() as (ours, _):
        return "interrupted" if train(ours, assignment.stop) is None else "done"


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
            run_dir, lease = stack.enter_context(run_dir.claimed(wait_s=CLAIM_S))
            attempt = lease.held.attempt
        if layout.devices > 1:
            from scalelab.train.parallel import agree, join

            join(JOIN_TIMEOUT_S, find_device())
            attempt = agree(attempt)
            if assignment.rank > 0:
                run_dir = replace(run_dir, guard=follows(run_dir.path, LEASE, attempt))
        alive = stack.enter_context(assignment.watchdog(settings.stall_timeout_s))
        launched = Launched(layout, settings.stability, settings.checkpoint_s, alive)
        result = train(run_dir, assignment.stop, launched)
        leave()
        return "interrupted" if result is None else "done"
