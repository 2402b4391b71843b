"""`scalelab worker`: run queued jobs of a sweep on this machine until none is left."""

import argparse
import os
import sys
from contextlib import closing
from pathlib import Path

from scalelab.cli.arguments import examples
from scalelab.screen import echo

DESCRIPTION = (
    "Run the queued runs of a sweep on this machine, from a directory that several machines share. Start any number "
    "of workers with ssh, a scheduler or Kubernetes: each run is trained once, and the runs of a worker that was "
    "killed are resumed by another. Queue the runs first: scalelab sweep FILE.yaml --prepare."
)
EXAMPLES = examples("scalelab worker runs/isoflop", "scalelab worker runs/isoflop --slots 4 --minutes 240")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("directory", type=Path, metavar="SWEEP_DIR", help="directory of the sweep: runs/NAME")
    parser.add_argument(
        "--minutes",
        type=float,
        metavar="MINUTES",
        help="time of this worker; two minutes before its end (halfway, if it has less than four) the runs are saved "
        "and it leaves with exit status 130 (default: no limit)",
    )
    parser.add_argument(
        "--slots",
        type=int,
        metavar="COUNT",
        help="runs in parallel (default: one per CPU core, or as many on each GPU as fit in its memory)",
    )
    parser.add_argument(
        "--token",
        metavar="TOKEN",
        help="refuse a directory with another token, such as a local one of the same name (default: not checked)",
    )
    parser.add_argument("--task", metavar="NAME", help="name to record for this worker (default: none)")
    parser.add_argument("--log", metavar="FILE", help="path of its log to record (default: none)")


def run(args: argparse.Namespace) -> int:
    """Run the worker and return the exit status."""
    from scalelab.errors import LaunchError
    from scalelab.jobs.executors.local import LocalConfig
    from scalelab.jobs.queue import JobQueue
    from scalelab.jobs.queue_worker import run_worker
    from scalelab.jobs.view import JobLabels, LiveView

    for name, value in (("--minutes", args.minutes), ("--slots", args.slots)):
        if value is not None and not 0 < value < float("inf"):
            raise LaunchError(
                f"{name} is {value:g}", where=f"scalelab worker {name}", fix="use a number above 0"
            )
    queue = JobQueue(Path(os.path.abspath(args.directory)))
    settings = queue.settings()
    if args.token is not None:
        queue.check_token(args.token)
    executor = LocalConfig(slots=args.slots).start(tuple(settings.preload))
    with closing(executor), LiveView(JobLabels()) as view:
        worker = queue.join(args.task, args.log).worker  # from now on it can take jobs
        result = run_worker(queue, executor, view, worker, args.minutes)
    n = len(result.outcomes)
    echo(f"{worker}: {n} job{'' if n == 1 else 's'} ended here, {result.n_open} left in the queue")
    for ended in result.lost:
        echo(f"error: {ended.job.id} {ended.outcome}: {ended.reason}", file=sys.stderr)
    if result.interrupted:
        return 130
    return 1 if result.lost else 0
