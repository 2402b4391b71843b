"""The driver: runs each job exactly once, across retries, interrupts and crashes.

    source -> waiting -> (needs done, free slot) -> executor -> polled -> retried, or ended -> source

All state that decides what is left to do is on the disk, so running the same command again resumes
after an interrupt, a crash or a power cut. A job with a result is never run again, even if another
command produced it. The driver waits for a job that another process is running, and takes it over
if that process gives it up.

A job whose process was killed, stalled or ran out of memory is tried again, from its newest
checkpoint. The number of tries depends on progress: a job that reached a later checkpoint than
before is tried again, one that did not is given up after `retries` more tries. Refusals that need a
person, and bugs in scalelab, are never retried.

Not here: processes and devices (executors), when a try that runs is ended (tries.py), what is shown
(view.py).
"""

import signal
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Protocol

from scalelab.errors import ScalelabError
from scalelab.jobs.base import LOST, RETRIED, Executor, Job, JobOutcome, Outcome
from scalelab.jobs.executors.inline import InlineExecutor
from scalelab.jobs.limits import Limits
from scalelab.jobs.tries import Try, last_checkpoint
from scalelab.leases import holder
from scalelab.system import clock as time
from scalelab.train.run_directory import LEASE

POLL_S = 0.05
"""Seconds between two polls of executors that do not ask for longer ones (Capabilities.poll_s)."""
STOPPING_POLL_S = 1.0
"""Longest time between two polls while jobs are asked to stop."""
RECHECK_S = 1.0
"""Seconds between two checks of a job that another process is running."""
CHECKS_PER_S = 4.0
"""Most such checks a second, over all jobs: many drivers may share one file system."""


class JobSource(Protocol):
    """A source of jobs."""

    def ask(self) -> Sequence[Job]:
        """Return further jobs in starting order, or none for now. Called after each outcome."""

    def tell(self, ended: JobOutcome) -> None:
        """Receive the final outcome of a job."""


@dataclass
class JobList:
    """A fixed list of jobs; with needs among them, a graph."""

    jobs: Sequence[Job]

    def ask(self) -> Sequence[Job]:
        """Return all jobs on the first call, none later."""
        jobs, self.jobs = self.jobs, ()
        return jobs

    def tell(self, ended: JobOutcome) -> None:
        """Nothing depends on it."""


class DriverView(Protocol):
    """Receives what happens to the jobs."""

    def added(self, jobs: Sequence[Job]) -> None:
        """Jobs were received from the source."""

    def started(self, job: Job) -> None:
        """A job was given to the executor."""

    def waits(self, job: Job, in_queue: bool) -> None:
        """A job is with the executor; `in_queue` says whether its processes are still to start."""

    def elsewhere(self, job: Job) -> None:
        """Another process is running the job; the driver waits for it."""

    def ended(self, ended: JobOutcome, again: bool) -> None:
        """A try has ended; `again` says whether there will be another one."""

    def tick(self) -> None:
        """Refresh; called many times a second."""


@dataclass
class JobOutcomes:
    """Outcomes of the jobs of one driver."""

    ended: dict[str, JobOutcome] = field(default_factory=dict)
    """By job id; jobs that had not started before an interrupt are absent."""
    tries: Counter[str] = field(default_factory=Counter)
    """Number of tries of each job by this driver."""
    interrupted: bool = False

    def of(self, *kinds: Outcome) -> list[JobOutcome]:
        """Return the outcomes of these kinds."""
        return [ended for ended in self.ended.values() if ended.outcome in kinds]


def drive(source: JobSource, executor: Executor, view: DriverView, limits: Limits) -> JobOutcomes:
    """Run all jobs of a source and return how each ended.

    Ctrl-C asks the jobs to save and stop; a second Ctrl-C kills them. Either way, running the same
    command again resumes them.

    Args:
        source: Where jobs come from, and where their outcomes are reported.
        executor: Runs jobs whose settings name no executor of their own.
        view: Shows progress.
        limits: Jobs at a time, tries, timeouts in seconds, and what stops the whole.

    Raises:
        LaunchError: A person has to fix something first (a full disk, a missing corpus) and the
            limits say to stop in that case: running jobs were saved and stopped. Or the executor
            cannot run one of the jobs.
        ScalelabError: A directory cannot be read or written. Running jobs were saved and stopped, those of an
            executor that outlives this process go on.
    """
    driver = _Driver(source, executor, view, limits)
    with driver.interrupts():
        driver.run_all()
    if driver.refusal is not None:
        raise driver.refusal.refusal()
    driver.outcomes.interrupted = driver.n_interrupts > 0 or driver.is_out_of_time
    return driver.outcomes


class _Driver:
    def __init__(self, source: JobSource, executor: Executor, view: DriverView, limits: Limits):
        self.source, self.executor, self.view, self.limits = source, executor, view, limits
        self.terminal = executor if isinstance(executor, InlineExecutor) else InlineExecutor()
        self.outcomes = JobOutcomes()
        self.refusal: JobOutcome | None = None
        self.n_interrupts = 0
        self._failed = False
        self._stop_since: float | None = None
        self._began = self._asked = time.monotonic()
        self._wake = threading.Event()
        self._waiting: list[Job] = []
        self._running: dict[str, Try] = {}
        self._elsewhere: dict[str, tuple[Job, float]] = {}  # with the time of the next look
        self._reached: dict[str, int] = {}
        self._fruitless: Counter[str] = Counter()

    @property
    def stopping(self) -> bool:
        return self.n_interrupts > 0 or self._failed or self.refusal is not None or self.is_out_of_time

    @property
    def is_out_of_time(self) -> bool:
        limit = self.limits.stop_after_s
        return limit is not None and time.monotonic() - self._began >= limit

    def run_all(self) -> None:
        try:
            self._ask()
            self._loop()
        except ScalelabError:
            if not (self.stopping or self.executor.capabilities.outlives):
                self._failed = True
                self._loop()  # or closing the executor would kill what runs
            raise

    def _loop(self) -> None:
        while True:
            if self.stopping:
                self._waiting, self._elsewhere = [], {}
            self._begin_what_can()
            if self._waiting and not (self._running or self._elsewhere) and not self.stopping:
                self._end_cycles()
            if not (self._waiting or self._running or self._elsewhere):
                return
            for executor in {id(e): e for e in (self.executor, self.terminal)}.values():
                for name, state in executor.poll().items():
                    if isinstance(state, JobOutcome):
                        self._take(state)
                    elif name in self._running:
                        self._running[name].hears(state, time.monotonic())
                        self.view.waits(self._running[name].job, self._running[name].is_queued)
            for running in list(self._running.values()):
                self._watch(running, time.monotonic())
            self._look_elsewhere()
            self._ask_again()
            self.view.tick()
            self._pause()

    def _pause(self) -> None:
        """Wait for the next poll; a signal ends the wait."""
        wait_s = self.executor.capabilities.poll_s
        if wait_s is None or not self._running:
            time.sleep(POLL_S)
        else:
            self._wake.wait(min(wait_s, STOPPING_POLL_S) if self.stopping else wait_s)
            self._wake.clear()

    def _ask_again(self) -> None:
        every = self.limits.ask_s
        if every is not None and not self.stopping and time.monotonic() - self._asked >= every:
            self._ask()

    def _ask(self) -> None:
        unfinished, self._asked = self._unfinished(), time.monotonic()
        jobs = [job for job in self.source.ask() if job.id not in unfinished]
        if not jobs:
            return
        for job in jobs:
            if job.standing(job) is None:
                self._carrier(job).check(job)
        self.view.added(jobs)
        found = set(self.executor.find([job for job in jobs if not job.resources.terminal]))
        for job in jobs:
            if job.id in found:
                self._note_begun(job, self.executor)
            else:
                self._waiting.append(job)

    def _carrier(self, job: Job) -> Executor:
        return self.terminal if job.resources.terminal else self.executor

    def _begin_what_can(self) -> None:
        while not self.stopping:
            job = self._next()
            if job is None:
                return
            # What is done already needs no room. While others run, it is looked for where there is room.
            standing = None if self._running else job.standing(job)
            if standing is None and not self._carrier(job).has_room(job):
                return
            self._waiting.remove(job)
            standing = standing or job.standing(job)
            if standing is not None:  # done before, or by another command since we planned
                if standing.outcome == "done":
                    job.dir.tidy()
                self._end(standing)
            elif holder(job.dir.path, LEASE) is not None:
                self._wait_for_another(job)
            else:
                self._begin(job)

    def _next(self) -> Job | None:
        """The first job that has nothing to wait for. One that can never begin is ended on the way."""
        ended, unfinished = self.outcomes.ended, self._unfinished()
        for job in list(self._waiting):
            lacks = [n for n in job.needs if n in ended and ended[n].outcome != "done"]
            if lacks:
                self._waiting.remove(job)
                self._end(JobOutcome(job, "blocked", f"it needs {lacks[0]}, which is not there"))
                return self._next()
            if unfinished.isdisjoint((*job.needs, *job.after)):
                return job
        return None

    def _unfinished(self) -> set[str]:
        return {job.id for job in self._waiting} | {*self._running} | {*self._elsewhere}

    def _begin(self, job: Job) -> None:
        carrier = self._carrier(job)
        self._note_begun(job, carrier)
        try:
            carrier.submit(job)
        except ScalelabError:
            del self._running[job.id]
            raise

    def _note_begun(self, job: Job, executor: Executor) -> None:
        self._reached.setdefault(job.id, last_checkpoint(job))
        self.outcomes.tries[job.id] += 1
        self._running[job.id] = Try(job, executor, self.limits, time.monotonic())
        self.view.started(job)

    def _end_cycles(self) -> None:
        """End jobs that need one another in a cycle; jobs that wait for a free slot stay."""
        if self._next() is None:
            stuck, self._waiting = self._waiting, []
            for job in stuck:
                self._end(
                    JobOutcome(
                        job, "blocked", f"it needs {', '.join((*job.needs, *job.after))}, which is a cycle"
                    )
                )

    def _wait_for_another(self, job: Job) -> None:
        if not self.limits.take_over:
            self._end(JobOutcome(job, "elsewhere", "another process is running it"))
            return
        self._elsewhere[job.id] = (job, time.monotonic() + RECHECK_S)
        self.view.elsewhere(job)

    def _look_elsewhere(self) -> None:
        now = time.monotonic()
        for name, (job, at) in list(self._elsewhere.items()):
            if at <= now:
                self._elsewhere[name] = (job, now + max(RECHECK_S, len(self._elsewhere) / CHECKS_PER_S))
                if job.standing(job) is not None or holder(job.dir.path, LEASE) is None:
                    del self._elsewhere[name]
                    self._waiting.append(job)

    def _take(self, reported: JobOutcome) -> None:
        """Handle a try that has ended."""
        running = self._running.pop(reported.job.id)
        ended = self._classified(reported, running)
        job = ended.job
        if ended.outcome == "elsewhere" and not self.stopping:
            self.outcomes.tries[job.id] -= 1
            self._wait_for_another(job)
            return
        if ended.outcome in LOST and holder(job.dir.path, LEASE) is None:
            job.dir.append("lost", outcome=ended.outcome, reason=ended.reason)
        again = ended.outcome in RETRIED and not self.stopping and self._may_try_again(job)
        if again:
            self.view.ended(ended, again=True)
            self._waiting.append(job)
            return
        if ended.outcome in RETRIED and self._fruitless[job.id] > 1:
            more = self._fruitless[job.id] - 1
            ended = replace(ended, reason=f"{ended.reason}; no further after {more} more tries")
        self._end(ended)
        if ended.outcome == "refused" and self.limits.stop_on_refusal and self.refusal is None:
            self.refusal = ended

    def _classified(self, reported: JobOutcome, running: Try) -> JobOutcome:
        """Final outcome of a try: the disk decides first, then our own actions, then the report."""
        job = running.job
        if (standing := job.standing(job)) is not None:
            return standing
        if reported.outcome in {"killed", "interrupted"} and running.ended_by_us is not None:
            outcome, why = running.ended_by_us
            return JobOutcome(job, outcome, why)
        if reported.outcome in {"killed", "elsewhere"} and self.stopping:
            return replace(reported, outcome="interrupted")  # asked to stop before it could handle the signal
        if reported.outcome == "interrupted" and not self.stopping:
            return JobOutcome(job, "killed", "its process was asked to stop, but not by this driver")
        if reported.outcome == "done" and job.leaves_result:
            job.dir.refresh()  # another machine wrote it a moment ago
            return job.standing(job) or JobOutcome(job, "error", "it left no result")
        return reported

    def _may_try_again(self, job: Job) -> bool:
        reached = last_checkpoint(job)
        further = reached > self._reached[job.id]
        self._reached[job.id] = max(reached, self._reached[job.id])
        self._fruitless[job.id] = 0 if further else self._fruitless[job.id] + 1
        return self._fruitless[job.id] <= self.limits.retries

    def _end(self, ended: JobOutcome) -> None:
        self.outcomes.ended[ended.job.id] = ended
        self.view.ended(ended, again=False)
        self.source.tell(ended)
        if not self.stopping:
            self._ask()

    def _watch(self, running: Try, now: float) -> None:
        if self.stopping:
            self._stop_since = self._stop_since or now
            running.stop(now, self._stop_since, at_once=self.n_interrupts > 1)
        else:
            running.check(now)

    @contextmanager
    def interrupts(self) -> Iterator[None]:
        """Count Ctrl-C, SIGTERM, SIGHUP and SIGUSR1; the loop acts on them, wherever they come in.

        Signals reach the main thread alone: a driver in another thread has none to count.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def heard(number: int, frame: FrameType | None) -> None:
            del number, frame
            self.n_interrupts += 1
            self._wake.set()
            for executor in (self.executor, self.terminal):
                if executor.capabilities.blocking:  # the loop does not turn while it works
                    executor.cancel([], now=self.n_interrupts > 1)

        asked = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
        before = {number: signal.signal(number, heard) for number in asked}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
