"""State of a run or a stage, from its directory alone.

finished, diverged, failed   status in its result; failed also if its process was lost
running                      some process holds its lease
interrupted                  it has a journal, and no process is working on it
planned                      it has not started
"""

from typing import Protocol

from scalelab.leases import holder
from scalelab.train.run_directory import RunDir

STATES = ("finished", "diverged", "failed", "interrupted", "running", "planned")


class EndStatus(Protocol):
    """The part of a result that describes how its run or stage ended."""

    @property
    def status(self) -> str:
        """finished, diverged or failed."""

    @property
    def reason(self) -> str | None:
        """Reason if it did not finish."""


def state_of(run_dir: RunDir, result: EndStatus | None) -> tuple[str, str | None]:
    """Return the state of a run, from its directory alone, and the reason if there is one."""
    if result is not None:
        return result.status, result.reason
    if holder(run_dir.path) is not None:
        return "running", None
    last = None
    for event in run_dir.events():
        if event["event"] in {"start", "interrupted", "lost", "end"}:
            last = event
    if last is None:
        return "planned", None
    if last["event"] == "lost":
        return "failed", last["reason"]
    return "interrupted", None
