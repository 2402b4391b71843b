"""Jobs for workers that people, or other programs, start: with ssh, Kubernetes, a scheduler that is not Slurm.

    job -> ticket in the queue of its command (jobs/queue.py) -> `scalelab worker DIR`, any number, on any machine

The command that drives the jobs prints that of a worker, and waits for what workers do. Workers may come and go, and
be killed; what one leaves behind, another resumes. If the driving command dies, its jobs go on, and the same command
finds them by their tickets.

Not here: a sweep whose runs are all known, which needs no driver (scalelab sweep FILE.yaml --prepare).
"""

import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from scalelab.config import Count, Positive
from scalelab.errors import LaunchError
from scalelab.jobs.base import AvailableDevices, Capabilities, ExecutorConfig, Job, State
from scalelab.jobs.executors.process_group import refuse_gang
from scalelab.jobs.published import PublishedJobs
from scalelab.jobs.queue import JobQueue
from scalelab.jobs.queue_records import QueueSettings
from scalelab.screen import echo

MOST_QUEUED = 1000
"""Most jobs in the queue at a time."""
VANISHED = 2
"""Further workers that may vanish with a job before that counts as one try of it."""
NEVER_S = 1e9
"""Workers leave it to the driver to decide that a job has stalled."""


class WorkersConfig(ExecutorConfig):
    """Workers that are started by hand or by another program."""

    exclusive: ClassVar[bool] = True
    kind: Literal["workers"] = "workers"
    workers: Count = 4
    """Jobs that are expected to run at a time, for estimates."""
    idle_s: Positive = 600.0
    """Seconds that a worker waits for further jobs before it leaves."""
    poll_s: Positive = 1.0
    """Seconds between two looks at the directory."""

    def start(self, preload: Sequence[str] = (), home: Path | None = None) -> "WorkersExecutor":
        """Return the executor. Nothing is written before the first job."""
        return WorkersExecutor(self, preload, home)


class WorkersExecutor:
    """Publishes jobs and reads how they ended."""

    def __init__(self, config: WorkersConfig, preload: Sequence[str], home: Path | None):
        self.config, self._preload, self._home = config, tuple(preload), home
        self.capabilities = Capabilities(gangs=False, timing=False, poll_s=config.poll_s, outlives=True)
        self._published = PublishedJobs(lambda: self._queue)

    @cached_property
    def _queue(self) -> JobQueue:
        if self._home is None:
            raise LaunchError(
                "the executor 'workers' needs the directory of a sweep for its jobs",
                where="executor: workers",
                fix="use an executor of this machine for this command (executor: local)",
            )
        queue, config = JobQueue(self._home.absolute()), self.config
        settings = QueueSettings(
            driven=True,
            retries=VANISHED,
            heartbeat_timeout_s=NEVER_S,
            idle_s=config.idle_s,
            preload=list(self._preload),
        )
        command = ["scalelab", "worker", str(queue.home), "--token", queue.open(settings).token]
        echo("Start workers, any number, on machines that share this directory:", file=sys.stderr)
        echo(f"  cd {shlex.quote(os.getcwd())} && {shlex.join(command)}", file=sys.stderr)
        return queue

    @property
    def devices(self) -> AvailableDevices:
        """Jobs that are expected to run at a time."""
        return AvailableDevices(self.config.workers, "worker that is started by hand", self.config.workers)

    def call(self, function: str, *arguments: Any, limit_s: float | None = None) -> None:
        """None: no device is idle here."""
        del function, arguments, limit_s

    def check(self, job: Job) -> None:
        """Refuse a job of several processes."""
        refuse_gang(job, "workers")

    def has_room(self, job: Job) -> bool:
        """True until very many jobs are queued."""
        del job
        return len(self._published) < MOST_QUEUED

    def submit(self, job: Job) -> None:
        """Queue a job."""
        self._published.publish(job)

    def poll(self) -> dict[str, State]:
        """Return the state of each job, from the disk."""
        return self._published.states()

    def cancel(self, ids: Iterable[str], *, now: bool) -> None:
        """Ask the workers of jobs to save and stop, or to kill them."""
        self._published.cancel(ids, now=now)

    def find(self, jobs: Sequence[Job]) -> tuple[str, ...]:
        """Return ids of jobs that are still queued from before, or run."""
        return self._published.find(jobs)

    def close(self) -> None:
        """Nothing is held: jobs that are queued or run go on without this process."""
