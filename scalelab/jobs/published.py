"""Jobs that a driver has published in a queue, and what the disk says of them.

    driver -> tickets -> `scalelab worker` on any machine -> leases, ends -> states

Not here: who starts workers (executors), the files of the queue (queue.py).
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from scalelab.errors import RunError
from scalelab.jobs.base import Job, JobOutcome, State
from scalelab.jobs.queue import JobQueue
from scalelab.leases import holder
from scalelab.train.run_directory import LEASE


@dataclass
class _Published:
    job: Job
    number: int
    stopped: bool = False
    """Whether it was asked to stop, or killed, by this process."""
    killed: bool = False


class PublishedJobs:
    """The jobs of one driver in a queue, which nobody else publishes in.

    Args:
        queue: Returns the queue. Called when the first job needs it.
    """

    def __init__(self, queue: Callable[[], JobQueue]):
        self._queue = queue
        self._jobs: dict[str, _Published] = {}
        self._has_looked = False

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def n_wanted(self) -> int:
        """Number of open jobs that were not asked to stop."""
        return sum(not each.stopped for each in self._jobs.values())

    def publish(self, job: Job) -> None:
        """Queue a job for whichever worker comes first."""
        self._jobs[job.id] = _Published(job, self._queue().publish([job])[job.id])

    def states(self, known: bool = True) -> dict[str, State]:
        """Return the state of each job by id; one that has ended is reported once.

        Args:
            known: Whether what starts the workers answers; else a job that no worker holds may be about to begin.
        """
        ends = self._queue().ended_names() if self._jobs else set()
        states = {name: self._state(each, ends, known) for name, each in self._jobs.items()}
        for name, state in states.items():
            if isinstance(state, JobOutcome):
                del self._jobs[name]
        return states

    def _state(self, each: _Published, ends: set[str], known: bool) -> State:
        job = each.job
        given_up = "killed" if each.killed else "interrupted"
        if f"{job.id}-{each.number:06d}" in ends:
            ticket = self._queue().ticket(job.id)
            end = None if ticket is None else self._queue().end(ticket)
            if end is not None:
                outcome = end.of(job)
                if each.stopped and outcome.outcome in {"killed", "interrupted"}:
                    return JobOutcome(job, given_up, outcome.reason)
                return outcome
        is_held = holder(job.dir.path, LEASE) is not None
        if each.stopped and (not is_held or each.killed):
            return JobOutcome(job, given_up, "it was withdrawn from the queue")
        if is_held:
            return "running"
        return "queued" if known else "unknown"

    def cancel(self, ids: Iterable[str], *, now: bool) -> None:
        """Ask the workers of jobs to save and stop them, or to kill them; no worker begins them any more."""
        for name in ids:
            if (each := self._jobs.get(name)) is not None:
                each.stopped, each.killed = True, each.killed or now
                self._queue().withdraw(name, "kill" if now else "stop")

    def refuse(self, problem: str, where: str, fix: str) -> dict[str, State]:
        """Withdraw every job, because no worker can run any, and return their outcomes."""
        for name in self._jobs:
            with suppress(RunError):  # a full disk, which may be what is reported
                self._queue().withdraw(name, "stop")
        jobs, self._jobs = self._jobs, {}
        return {name: JobOutcome(each.job, "refused", problem, where, fix) for name, each in jobs.items()}

    def find(self, jobs: Sequence[Job]) -> tuple[str, ...]:
        """Return ids of jobs that an earlier driver published and that are still open; other tickets are removed."""
        if not self._has_looked:
            self._has_looked = True
            self._queue().keep_only([job.id for job in jobs])  # those of an earlier recipe
        waiting = {ticket.job for ticket in self._queue().open_tickets() if ticket.wanted == "run"}
        found = [job for job in jobs if job.id in waiting and job.resources.processes == 1]
        for job in found:
            self.publish(job)
        return tuple(job.id for job in found)
