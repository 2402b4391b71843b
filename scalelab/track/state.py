"""Where a run or a stage stands, from its directory alone.

finished, diverged, failed   its result says so; failed also: it was lost
running                      some process holds its lock
interrupted                  its journal has begun, and nobody goes on with it now
planned                      nothing has begun
"""

import fcntl
from pathlib import Path
from typing import Protocol

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
    if is_running(run_dir):
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


def is_running(run_dir: RunDir) -> bool:
    """Whether some process holds the run's lock at this moment."""
    return is_held(run_dir.lock_path)


def is_held(lock: Path) -> bool:
    """Whether some process holds a lock file at this moment. Asking does not take it."""
    try:
        with open(lock, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
