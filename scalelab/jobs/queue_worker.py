"""A worker: claims open jobs of a queue and runs them until none is left or its time is over.

    queue (queue.py) -> driver (driver.py) -> processes on this machine (executors/local.py) -> ends -> queue

A worker is the driver over those jobs that nobody else holds, so it retries, watches and stops them as
any other command does, and its processes are forked from one server that has imported torch once. Any
number of workers, on any number of machines, may work on one queue; each may be killed at any time.

Not here: who starts workers, and how many.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from scalelab.errors import ScalelabError
from scalelab.files import NoAnswer
from scalelab.jobs.base import AvailableDevices, Capabilities, Executor, Job, JobOutcome, State
from scalelab.jobs.driver import DriverView, drive
from scalelab.jobs.limits import Limits
from scalelab.jobs.queue import JobQueue
from scalelab.jobs.queue_records import JobEnd, QueuedJob, QueueSettings
from scalelab.leases import Lease, claim, holder
from scalelab.train.run_directory import LEASE

WATCH_S = 2.0
"""Seconds between two looks at the tickets of the jobs that this worker runs."""
LOOK_S = 1.0
"""Seconds between two looks for further jobs while there are none."""
AHEAD = 16
"""Jobs that a worker of a driver takes a look at ahead of those that it runs."""
SAVE_S = 120.0
"""Seconds before the end of its time at which a worker asks its jobs to save and stop."""


@dataclass
class WorkerResult:
    """What one worker did."""

    outcomes: dict[str, JobOutcome] = field(default_factory=dict)
    """How the jobs ended that this worker saw the end of, by id."""
    interrupted: bool = False
    """Whether it was stopped on request or by the end of its time."""
    n_open: int = 0
    """Jobs that had not ended when it left."""

    @property
    def lost(self) -> list[JobOutcome]:
        """Jobs that ended without a result."""
        return [ended for ended in self.outcomes.values() if ended.outcome != "done"]


class _QueuedJobs:
    """Source of the jobs of a queue for one driver."""

    def __init__(self, queue: JobQueue, settings: QueueSettings, worker: str):
        self.queue, self.settings, self.worker = queue, settings, worker
        self.numbers: dict[str, int] = {}
        """Number of each job of which this driver has not seen the end."""
        self.ended: dict[str, JobOutcome] = {}
        self._unreadable: set[tuple[str, int]] = set()

    def ask(self) -> Sequence[Job]:
        """Return jobs that are open and that this driver does not have yet; few of them where others are published."""
        jobs = []
        for ticket in self.queue.open_tickets():
            if ticket.wanted != "run" or ticket.job in self.numbers:
                continue
            if (ticket.job, ticket.number) in self._unreadable:
                continue
            try:
                job = self.queue.job_of(ticket, self.settings.retries)
                if self.settings.driven:
                    # Its driver queues a job once those before it have ended. How one ended here is not how it ends:
                    # another worker may go on with it.
                    job = replace(job, needs=(), after=())
                    if self._is_elsewhere(job):
                        continue
            except ScalelabError as error:
                self._refuse(ticket, error)
                continue
            self.numbers[ticket.job] = ticket.number
            jobs.append(job)
            if self.settings.driven and len(jobs) == AHEAD:
                break
        return jobs

    def _is_elsewhere(self, job: Job) -> bool:
        """Whether another worker runs a job, or is about to: asked for again at once, it would never be left."""
        return holder(job.dir.path, LEASE) is not None or holder(self.queue.claims, job.id) is not None

    def tell(self, ended: JobOutcome) -> None:
        """Record the end of a job, unless another worker will go on with it."""
        number = self.numbers.pop(ended.job.id)
        if ended.outcome == "elsewhere":
            return
        ticket = self.queue.ticket(ended.job.id, number)
        if ended.outcome == "interrupted" and (ticket is None or ticket.wanted == "run"):
            return
        if ended.outcome == "refused" and not self.settings.driven:
            self.ended[ended.job.id] = ended
            return  # this machine may be the only one that lacks what it needs
        if self.queue.record_end(ended.job.id, number, JobEnd.seen_by(self.worker, ended)):
            self.ended[ended.job.id] = ended

    def _refuse(self, ticket: QueuedJob, error: ScalelabError) -> None:
        """Report a job whose directory cannot be used; the others go on."""
        self._unreadable.add((ticket.job, ticket.number))
        if self.settings.driven:
            end = JobEnd("refused", error.problem, error.where, error.fix, self.worker)
            self.queue.record_end(ticket.job, ticket.number, end)
        else:
            raise error


class _Watched:
    """An executor that begins only what no other worker has begun, and ends jobs whose tickets say so.

    The claim of a ticket spares workers from starting processes for the same job at the same moment. What
    decides who may write is the lease of the job's directory, as everywhere.
    """

    def __init__(self, inner: Executor, queue: JobQueue, source: _QueuedJobs):
        self._inner, self._queue, self._source = inner, queue, source
        self._running: dict[str, Lease] = {}
        self._elsewhere: dict[str, State] = {}
        self._looked = 0.0

    @property
    def capabilities(self) -> Capabilities:
        return self._inner.capabilities

    @property
    def devices(self) -> AvailableDevices:
        return self._inner.devices

    def call(self, function: str, *arguments: object, limit_s: float | None = None) -> object:
        return self._inner.call(function, *arguments, limit_s=limit_s)

    def check(self, job: Job) -> None:
        self._inner.check(job)

    def has_room(self, job: Job) -> bool:
        return self._inner.has_room(job)

    def submit(self, job: Job) -> None:
        lease = claim(self._queue.claims, job.id)
        if lease is None:
            self._elsewhere[job.id] = JobOutcome(job, "elsewhere", "another worker is about to begin it")
            return
        self._running[job.id] = lease
        self._inner.submit(job)

    def poll(self) -> Mapping[str, State]:
        if time.monotonic() - self._looked > WATCH_S:
            self._looked = time.monotonic()
            for name in self._running:
                try:
                    ticket = self._queue.ticket(name, self._source.numbers.get(name, 0))
                except NoAnswer:
                    continue  # the next look may find out
                if ticket is None:
                    self._inner.cancel([name], now=True)
                elif ticket.wanted != "run":
                    self._inner.cancel([name], now=ticket.wanted == "kill")
        states, self._elsewhere = {**self._inner.poll(), **self._elsewhere}, {}
        for name, state in states.items():
            if isinstance(state, JobOutcome) and name in self._running:
                self._running.pop(name).release()
        return states

    def cancel(self, ids: Iterable[str], *, now: bool) -> None:
        self._inner.cancel(ids, now=now)

    def find(self, jobs: Sequence[Job]) -> tuple[str, ...]:
        return self._inner.find(jobs)

    def close(self) -> None:
        self._inner.close()


def run_worker(
    queue: JobQueue, executor: Executor, view: DriverView, worker: str, minutes: float | None = None
) -> WorkerResult:
    """Run open jobs of a queue until none is left or the time is nearly over.

    Args:
        queue: The queue.
        executor: Runs the jobs on this machine.
        view: Shows progress.
        worker: Id under which ends are recorded.
        minutes: Time of this worker. Jobs are asked to save and stop SAVE_S before, or halfway if that is later.

    Raises:
        LaunchError: A person has to fix something first on this machine; running jobs were saved and stopped.
    """
    settings = queue.settings()
    source = _QueuedJobs(queue, settings, worker)
    ends = None if minutes is None else time.monotonic() + max(60 * minutes - SAVE_S, 30 * minutes)
    idle_since = None
    while True:
        left = None if ends is None else ends - time.monotonic()
        limits = Limits(
            retries=0 if settings.driven else settings.retries,  # the driver of the queue counts the tries
            heartbeat_timeout_s=settings.heartbeat_timeout_s,
            wall_timeout_s=settings.wall_timeout_s,
            stop_after_s=left,
            take_over=not settings.driven,
            ask_s=LOOK_S if settings.driven else None,
        )
        before = len(source.ended)
        outcomes = drive(source, _Watched(executor, queue, source), view, limits)
        if outcomes.interrupted:
            break
        if outcomes.ended or len(source.ended) > before:
            idle_since = None
            continue
        if not settings.driven:
            break
        idle_since = idle_since or time.monotonic()
        if time.monotonic() - idle_since >= settings.idle_s:
            break
        time.sleep(LOOK_S)
    return WorkerResult(source.ended, outcomes.interrupted, len(queue.open_tickets()))
