"""Jobs in this very process, one after another: breakpoints work, and nothing is hidden."""

import signal
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from scalelab.jobs.base import Capabilities, Devices, Ended, ExecutorConfig, Job, Said, State
from scalelab.jobs.gangs import refuse_gang
from scalelab.jobs.record import write_down
from scalelab.registry import resolved


class InlineConfig(ExecutorConfig):
    """In this process, one after another."""

    kind: Literal["inline"] = "inline"

    def start(self, preload: Sequence[str] = ()) -> "Inline":
        """The executor. Nothing is imported before the first job."""
        del preload
        return Inline()


class Inline:
    """The in-process twin of every other executor."""

    capabilities = Capabilities(gangs=False, timing=True, blocking=True)
    devices = Devices(1, "this process", 1)

    def __init__(self) -> None:
        self._ended: dict[str, State] = {}
        self._stopping = False

    def call(self, function: str, *arguments: Any) -> Any:
        """What "module:function" returns, here and now."""
        return resolved(function)(*arguments)

    def check(self, job: Job) -> None:
        """Refuse a job of several processes."""
        refuse_gang(job, "inline")

    def has_room(self, job: Job) -> bool:
        """Whether the job before has been told of."""
        del job
        return not self._stopping and not self._ended

    def submit(self, job: Job) -> None:
        """Do the job, here and now."""
        from scalelab.jobs.worker import Assignment, told  # torch
        from scalelab.train.device import use_threads

        record = write_down(job, job.resources.threads)
        use_threads(job.resources.threads)
        assignment = Assignment(job.dir, record.settings, 0, 1, lambda: self._stopping)
        if job.resources.terminal:
            # What a person is asked is answered by Ctrl-C too, and nobody waits for an answer then.
            asked = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            before = {n: signal.signal(n, signal.default_int_handler) for n in asked}
            try:
                said = told(assignment, record)
            except KeyboardInterrupt:
                said = Said("interrupted")
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)
            if said.outcome == "interrupted":  # what was said so far is on the disk
                signal.raise_signal(signal.SIGINT)
        else:
            said = told(assignment, record)
        self._ended[job.id] = Ended(job, said.outcome, said.reason, said.where, said.fix)

    def poll(self) -> dict[str, State]:
        """What submit has brought since the last call."""
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
