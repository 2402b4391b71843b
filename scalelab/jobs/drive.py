"""The driver of jobs: each done once, whatever happens on the way.

    source -> waiting -> (needs done, room) -> executor -> polled -> retried, or ended -> source

Everything that decides what is left to do is on the disk, so the same command resumes after an
interrupt, a crash or a power cut. A job with a result is never done again, also when another
command has done it. One that another process works on is waited for, and taken over should that
process give it up.

A job whose process was killed, stalled or ran out of memory is tried again, from its newest
checkpoint. How often is budgeted by progress: one that came a checkpoint further than before may
try again, one that did not gives up after `retries` more tries. What a person has to fix, and our
own bugs, are never tried again.

Not here: processes and devices (executors), what is shown (live.py).
"""

import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Protocol

from scalelab.jobs.base import LOST, RETRIED, Ended, Executor, Job, Outcome
from scalelab.jobs.inline import Inline
from scalelab.leases import holder
from scalelab.train.rundir import LEASE

POLL_S = 0.05
LOOK_S = 1.0
"""Between two looks at a job that another process works on."""
GRACE_S = 60.0
"""How long a process may take to save and stop before it is ended."""


class Source(Protocol):
    """Where jobs come from."""

    def ask(self) -> Sequence[Job]:
        """Further jobs, first the ones to begin first; none for now. Asked after every ending."""

    def tell(self, ended: Ended) -> None:
        """How one of them ended, for good."""


@dataclass
class Listed:
    """A fixed list of jobs; with needs among them, a graph."""

    jobs: Sequence[Job]

    def ask(self) -> Sequence[Job]:
        """All of them, once."""
        jobs, self.jobs = self.jobs, ()
        return jobs

    def tell(self, ended: Ended) -> None:
        """Nothing depends on it."""


@dataclass(frozen=True)
class Limits:
    """When a try is given up, and how many there are."""

    retries: int = 2
    """Further tries of a job that was killed, stalled or ran out of memory, and got no further."""
    heartbeat_timeout_s: float = 900.0
    """A job that logs nothing for so long counts as stalled."""
    wall_timeout_s: float | None = None
    """Longest time of one try. None: as long as it takes."""
    stop_on_refusal: bool = True
    """Whether a job that a person has to fix something for stops the others."""


class View(Protocol):
    """Who is told what happens."""

    def added(self, jobs: Sequence[Job]) -> None:
        """Jobs that came from the source."""

    def started(self, job: Job) -> None:
        """A job was given to the executor."""

    def elsewhere(self, job: Job) -> None:
        """Another process works on it: it is waited for."""

    def ended(self, ended: Ended, again: bool) -> None:
        """A try has ended; `again` says whether there will be another one."""

    def tick(self) -> None:
        """Called many times a second."""


@dataclass
class Outcomes:
    """How the jobs of one drive ended."""

    ended: dict[str, Ended] = field(default_factory=dict)
    """By job; those that were not begun before an interrupt are not here."""
    tries: Counter[str] = field(default_factory=Counter)
    """How often each was begun by us."""
    interrupted: bool = False

    def of(self, *kinds: Outcome) -> list[Ended]:
        """The endings of these kinds."""
        return [ended for ended in self.ended.values() if ended.outcome in kinds]


def drive(source: Source, executor: Executor, view: View, limits: Limits) -> Outcomes:
    """Do all jobs that come from a source. Returns how each ended.

    Ctrl-C asks the jobs to save and stop; a second Ctrl-C ends them at once. Either way the same
    command resumes later.

    Raises:
        LaunchError: A person has to fix something first (a full disk, a corpus that is gone), and
            the limits say to stop then: what still ran was saved and stopped. Or a job cannot be
            carried by this executor.
    """
    driver = _Driver(source, executor, view, limits)
    with driver.interrupts():
        driver.to_the_end()
    if driver.refusal is not None:
        raise driver.refusal.refusal()
    driver.outcomes.interrupted = driver.n_interrupts > 0
    return driver.outcomes


@dataclass
class _Running:
    job: Job
    executor: Executor
    began: float
    log_size: int = -1
    log_grew: float = 0.0
    asked_to_stop: bool = False
    ended_by_us: tuple[Outcome, str] | None = None
    is_queued: bool = False

    def hears(self, state: str) -> None:
        """Time in a queue is no silence, also where the executor cannot be asked meanwhile."""
        self.is_queued = state == "queued" or (state == "unknown" and self.is_queued)
        if self.is_queued:
            self.began = self.log_grew = time.monotonic()


class _Driver:
    def __init__(self, source: Source, executor: Executor, view: View, limits: Limits):
        self.source, self.executor, self.view, self.limits = source, executor, view, limits
        self.terminal = executor if isinstance(executor, Inline) else Inline()
        self.outcomes = Outcomes()
        self.refusal: Ended | None = None
        self.n_interrupts = 0
        self._stop_since: float | None = None
        self._waiting: list[Job] = []
        self._running: dict[str, _Running] = {}
        self._elsewhere: dict[str, tuple[Job, float]] = {}  # with the time of the next look
        self._reached: dict[str, int] = {}
        self._fruitless: Counter[str] = Counter()

    @property
    def stopping(self) -> bool:
        return self.n_interrupts > 0 or self.refusal is not None

    def to_the_end(self) -> None:
        self._ask()
        while True:
            if self.stopping:
                self._waiting, self._elsewhere = [], {}
            self._begin_what_can()
            if self._waiting and not (self._running or self._elsewhere) and not self.stopping:
                self._end_circles()
            if not (self._waiting or self._running or self._elsewhere):
                return
            for executor in {id(e): e for e in (self.executor, self.terminal)}.values():
                for name, state in executor.poll().items():
                    if isinstance(state, Ended):
                        self._take(state)
                    elif name in self._running:
                        self._running[name].hears(state)
            for running in list(self._running.values()):
                self._watch(running, time.monotonic())
            self._look_elsewhere()
            self.view.tick()
            time.sleep(POLL_S)

    def _ask(self) -> None:
        unfinished = self._unfinished()
        jobs = [job for job in self.source.ask() if job.id not in unfinished]
        if not jobs:
            return
        for job in jobs:
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
            if job is None or not self._carrier(job).has_room(job):
                return
            self._waiting.remove(job)
            standing = job.standing(job)
            if standing is not None:  # done before, or by another command since we planned
                if standing.outcome == "done":
                    job.dir.tidy()
                self._end(standing)
            elif holder(job.dir.path, LEASE) is not None:
                self._wait_for_another(job)
            else:
                self._begin(job)

    def _next(self) -> Job | None:
        """The first job whose needs are done. One that can never begin is ended on the way."""
        ended, unfinished = self.outcomes.ended, self._unfinished()
        for job in list(self._waiting):
            lacks = [n for n in job.needs if n in ended and ended[n].outcome != "done"]
            if lacks:
                self._waiting.remove(job)
                self._end(Ended(job, "blocked", f"it needs {lacks[0]}, which is not there"))
                return self._next()
            if not any(need in unfinished for need in job.needs):
                return job
        return None

    def _unfinished(self) -> set[str]:
        return {job.id for job in self._waiting} | {*self._running} | {*self._elsewhere}

    def _begin(self, job: Job) -> None:
        carrier = self._carrier(job)
        self._note_begun(job, carrier)
        carrier.submit(job)

    def _note_begun(self, job: Job, executor: Executor) -> None:
        self._reached.setdefault(job.id, _last_checkpoint(job))
        self.outcomes.tries[job.id] += 1
        now = time.monotonic()
        self._running[job.id] = _Running(job, executor, now, log_grew=now)
        self.view.started(job)

    def _end_circles(self) -> None:
        """End jobs that need one another; jobs that merely wait for room are left alone."""
        if self._next() is None:
            stuck, self._waiting = self._waiting, []
            for job in stuck:
                self._end(Ended(job, "blocked", f"it needs {', '.join(job.needs)}, in a circle"))

    def _wait_for_another(self, job: Job) -> None:
        self._elsewhere[job.id] = (job, time.monotonic() + LOOK_S)
        self.view.elsewhere(job)

    def _look_elsewhere(self) -> None:
        now = time.monotonic()
        for name, (job, at) in list(self._elsewhere.items()):
            if at <= now:
                self._elsewhere[name] = (job, now + LOOK_S)
                if job.standing(job) is not None or holder(job.dir.path, LEASE) is None:
                    del self._elsewhere[name]
                    self._waiting.append(job)

    def _take(self, said: Ended) -> None:
        """Take note of a try that has ended."""
        running = self._running.pop(said.job.id)
        ended = self._judged(said, running)
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

    def _judged(self, said: Ended, running: _Running) -> Ended:
        """What an ending comes to: the disk is believed first, then what we did, then words."""
        job = running.job
        if (standing := job.standing(job)) is not None:
            return standing
        if said.outcome in {"killed", "interrupted"} and running.ended_by_us is not None:
            outcome, why = running.ended_by_us
            return Ended(job, outcome, why)
        if said.outcome in {"killed", "elsewhere"} and self.stopping:
            return replace(said, outcome="interrupted")  # asked to stop before it could listen
        if said.outcome == "interrupted" and not self.stopping:
            return Ended(job, "killed", "its process was asked to stop by nobody here")
        if said.outcome == "done":
            return Ended(job, "error", "it left no result")
        return said

    def _may_try_again(self, job: Job) -> bool:
        reached = _last_checkpoint(job)
        further = reached > self._reached[job.id]
        self._reached[job.id] = max(reached, self._reached[job.id])
        self._fruitless[job.id] = 0 if further else self._fruitless[job.id] + 1
        return self._fruitless[job.id] <= self.limits.retries

    def _end(self, ended: Ended) -> None:
        self.outcomes.ended[ended.job.id] = ended
        self.view.ended(ended, again=False)
        self.source.tell(ended)
        if not self.stopping:
            self._ask()

    def _watch(self, running: _Running, now: float) -> None:
        log, limits = running.job.dir.log_path, self.limits
        size = log.stat().st_size if log.exists() else 0
        if size != running.log_size:
            running.log_size, running.log_grew = size, now
        silent = now - running.log_grew
        if self.stopping:
            self._stop_since = self._stop_since or now
            if not running.asked_to_stop:
                running.asked_to_stop = True
                running.executor.cancel([running.job.id], now=False)
            if self.n_interrupts > 1:
                self._end_now(running, "interrupted", "ended at once, on request")
            elif now > self._stop_since + GRACE_S:
                self._end_now(running, "interrupted", f"did not stop within {GRACE_S:.0f} s")
        elif silent > limits.heartbeat_timeout_s:
            self._end_now(running, "stalled", f"logged nothing for {silent:.0f} s")
        elif limits.wall_timeout_s is not None and now - running.began > limits.wall_timeout_s:
            why = f"ran past wall_timeout_s {limits.wall_timeout_s:.0f}"
            self._end_now(running, "stalled", why)

    def _end_now(self, running: _Running, outcome: Outcome, why: str) -> None:
        if running.ended_by_us is None:
            running.ended_by_us = (outcome, why)
            running.executor.cancel([running.job.id], now=True)

    @contextmanager
    def interrupts(self) -> Iterator[None]:
        """Count Ctrl-C, SIGTERM and SIGHUP; the loop acts on them, wherever they come in."""

        def heard(number: int, frame: FrameType | None) -> None:
            del number, frame
            self.n_interrupts += 1
            for executor in (self.executor, self.terminal):
                if executor.capabilities.blocking:  # the loop does not turn while it works
                    executor.cancel([], now=self.n_interrupts > 1)

        asked = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, heard) for number in asked}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _last_checkpoint(job: Job) -> int:
    """The last step that is in a checkpoint, as the journal tells; -1 before there is one."""
    steps = (event["step"] for event in job.dir.events() if event["event"] == "checkpoint")
    return max(steps, default=-1)
