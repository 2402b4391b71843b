"""Where a run or a stage stands, from its directory alone.

finished, diverged, failed   its result says so; failed also: it was lost
running                      some process holds its lease
interrupted                  its journal has begun, and nobody goes on with it now
planned                      nothing has begun
"""

from typing import Protocol

from scalelab.leases import holder
from scalelab.train.rundir import RunDir

STATES = ("finished", "diverged", "failed", "interrupted", "running", "planned")


class Ended(Protocol):
    """What a result says of how its run or stage ended."""

    @property
    def status(self) -> str:
        """finished, diverged or failed."""

    @property
    def reason(self) -> str | None:
        """Why what did not finish ended."""


def state_of(run_dir: RunDir, result: Ended | None) -> tuple[str, str | None]:
    """Where a run stands, from its directory alone, and the reason where there is one."""
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
