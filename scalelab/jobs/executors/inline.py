"""Jobs in this very process, one after another: breakpoints work, and nothing is hidden."""

import signal
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from scalelab.jobs.base import (
    AvailableDevices,
    Capabilities,
    ExecutorConfig,
    Job,
    JobOutcome,
    ProcessReport,
    State,
)
from scalelab.jobs.executors.process_group import refuse_gang
from scalelab.jobs.record import write_record
from scalelab.registry import resolved


class InlineConfig(ExecutorConfig):
    """In this process, one after another."""

    kind: Literal["inline"] = "inline"

    def start(self, preload: Sequence[str] = (), home: Path | None = None) -> "InlineExecutor":
        """The executor. Nothing is imported before the first job."""
        del preload, home
        return InlineExecutor()


class InlineExecutor:
    """The in-process twin of every other executor."""

    capabilities = Capabilities(gangs=False, timing=True, blocking=True)
    devices = AvailableDevices(1, "this process", 1)

    def __init__(self) -> None:
        self._ended: dict[str, State] = {}
        self._stopping = False

    def call(self, function: str, *arguments: Any, limit_s: float | None = None) -> Any:
        """Return the value of "module:function", called in this process, which nothing can end."""
        del limit_s
        return resolved(function)(*arguments)

    def check(self, job: Job) -> None:
        """Refuse a job of several processes, or in a precision that the device does not have."""
        refuse_gang(job, "inline")
        if job.resources.precision == "bf16":
            from scalelab.hardware.device import find_device  # torch

            find_device().precision("bf16")

    def has_room(self, job: Job) -> bool:
        """True if the previous job has been reported."""
        del job
        return not self._stopping and not self._ended

    def submit(self, job: Job) -> None:
        """Do the job, here and now."""
        from scalelab.hardware.device import use_threads
        from scalelab.jobs.worker import Assignment, run_reported  # torch

        record = write_record(job, job.resources.threads)
        use_threads(job.resources.threads)
        assignment = Assignment(job.dir, record.settings, 0, 1, lambda: self._stopping)
        if job.resources.terminal:
            # Ctrl-C also ends a question to the person: no answer is awaited any more.
            asked = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            before = {n: signal.signal(n, signal.default_int_handler) for n in asked}
            try:
                reported = run_reported(assignment, record)
            except KeyboardInterrupt:
                reported = ProcessReport("interrupted")
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)
            if reported.outcome == "interrupted":  # everything logged so far is on disk
                signal.raise_signal(signal.SIGINT)
        else:
            reported = run_reported(assignment, record)
        self._ended[job.id] = JobOutcome(job, reported.outcome, reported.reason, reported.where, reported.fix)

    def poll(self) -> dict[str, State]:
        """Return the outcomes of jobs submitted since the last call."""
        ended, self._ended = self._ended, {}
        return ended

    def cancel(self, ids: Iterable[str], *, now: bool) -> None:
        """Make the current job save and stop after its step."""
        del ids, now  # there is one job at most, and no other process to end
        self._stopping = True

    def find(self, jobs: Sequence[Job]) -> tuple[str, ...]:
        """None: they ended with the process that did them."""
        del jobs
        return ()

    def close(self) -> None:
        """Nothing is held."""
