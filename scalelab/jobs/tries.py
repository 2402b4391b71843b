"""One try of a job while it runs: ended when it is silent or late, or when it does not stop once asked to.

    journal grows            it is at work: else it has stalled after the limits' timeouts
    asked to save and stop   killed GRACE_S after its checkpoints last grew, or after the time that it announced

What is known of its progress is in its directory, so a try is watched in the same way wherever it runs.

Units: seconds on the driver's clock, bytes. Not here: whether there is another try (driver.py).
"""

import os
from contextlib import suppress
from dataclasses import dataclass

from scalelab.jobs.base import Executor, Job, Outcome
from scalelab.jobs.limits import Limits
from scalelab.network_files import ABSENT
from scalelab.system import system
from scalelab.train.run_directory import read_events

GRACE_S = 60.0
"""Seconds without a sign of progress after which a process that was asked to save and stop is killed."""
MOST_GRACE_S = 1800.0
"""Longest time that a process may take to save and stop, seconds, unless it announced a longer save."""


@dataclass
class Try:
    """A try that runs, or is queued."""

    job: Job
    executor: Executor
    limits: Limits
    began: float
    ended_by_us: tuple[Outcome, str] | None = None
    """Outcome and reason, once it was killed here."""
    _log_size: int = -1
    _log_grew: float = 0.0
    _log_read: int = 0
    """Bytes of the log that were there before this try, or were searched for its first step."""
    _has_stepped: bool = False
    is_queued: bool = False
    """Whether its processes are still to start, as far as the executor knows."""
    _asked_to_stop: bool = False
    _saved: int = -1
    """Bytes of its checkpoints when they last changed after it was asked to stop."""
    _grace_read: int = 0
    """Bytes of the log that were there when it was asked to stop, or were searched for its saves since."""
    _grace_ends: float = 0.0

    def __post_init__(self) -> None:
        self._log_grew, self._log_read = self.began, _log_size(self.job) or 0

    def hears(self, state: str, now: float) -> None:
        """Note its state. Time in a queue is no silence, also where the executor cannot be asked meanwhile."""
        self.is_queued = state == "queued" or (state == "unknown" and self.is_queued)
        if self.is_queued:
            self.began = self._log_grew = now

    def check(self, now: float) -> None:
        """End it if it is silent for too long, or past its wall time."""
        self._note_log_size(now)
        silent, wall_s = now - self._log_grew, self.limits.wall_timeout_s
        if silent > self._silence_s():
            self._end("stalled", f"logged nothing for {silent:.0f} s")
        elif wall_s is not None and now - self.began > wall_s:
            self._end("stalled", f"ran past wall_timeout_s {wall_s:.0f}")

    def stop(self, now: float, since: float, *, at_once: bool) -> None:
        """Ask it to save and stop, once, and end it where its save makes no progress.

        Args:
            now: The time.
            since: When all jobs were asked to stop.
            at_once: End it without waiting for its save.
        """
        self._note_log_size(now)
        if not self._asked_to_stop:
            self._asked_to_stop = True
            self._grace_read, self._grace_ends = self._log_size, now + GRACE_S
            self.executor.cancel([self.job.id], now=False)
        if at_once:
            self._end("interrupted", "ended at once, on request")
        elif now > self._killed_at(now, since):
            why = f"asked to stop {now - since:.0f} s ago, and its save made no progress"
            self._end("interrupted", why)

    def _note_log_size(self, now: float) -> None:
        size = _log_size(self.job)
        if size is None:
            self._log_grew = now  # whether it is silent is unknown
        elif size != self._log_size:
            self._log_size, self._log_grew = size, now

    def _silence_s(self) -> float:
        """Return how long it may log nothing, seconds."""
        limits = self.limits
        if limits.first_step_timeout_s is None or self._has_stepped:
            return limits.heartbeat_timeout_s
        if self._log_size > self._log_read:
            log = read_events(self.job.dir.log_path, self._log_read)
            self._log_read = log.offset
            self._has_stepped = any(event["event"] == "step" for event in log.events)
        return limits.heartbeat_timeout_s if self._has_stepped else limits.first_step_timeout_s

    def _killed_at(self, now: float, since: float) -> float:
        """Return when a job that was asked to stop is killed, on the clock of `now`.

        That is GRACE_S after its checkpoints last grew, within MOST_GRACE_S; and not before the time that
        it announced for its save, in which nothing may grow while the disk is waited for.
        """
        saved, latest = _checkpoint_bytes(self.job), since + MOST_GRACE_S
        if saved != self._saved:
            self._saved = saved
            self._grace_ends = max(self._grace_ends, min(now + GRACE_S, latest))
        if self._log_size > self._grace_read:
            log = read_events(self.job.dir.log_path, self._grace_read)
            self._grace_read = log.offset
            for event in log.events:
                if event["event"] == "saving" and isinstance(event.get("allow_s"), int | float):
                    self._grace_ends = max(self._grace_ends, now + event["allow_s"])
        return self._grace_ends

    def _end(self, outcome: Outcome, why: str) -> None:
        if self.ended_by_us is None:
            self.ended_by_us = (outcome, why)
            self.executor.cancel([self.job.id], now=True)


def last_checkpoint(job: Job) -> int:
    """Return the last step in a checkpoint, from the journal; -1 before there is one."""
    steps = (event["step"] for event in job.dir.events() if event["event"] == "checkpoint")
    return max(steps, default=-1)


def _log_size(job: Job) -> int | None:
    """Return the size of a job's journal, bytes; 0 without one, None where the file system does not say."""
    try:
        return system().size(job.dir.log_path)
    except OSError as error:
        return 0 if error.errno in ABSENT else None


def _checkpoint_bytes(job: Job) -> int:
    """Return the bytes of a job's checkpoints, unfinished ones included."""
    total = 0
    for place, _, names in os.walk(job.dir.checkpoints):
        for name in names:
            with suppress(OSError):  # renamed or removed meanwhile
                total += os.stat(os.path.join(place, name)).st_size
    return total
