"""The outcome of one check of a machine: ok, a warning or a problem, with a value and a fix.

    ok        training can use it as it is
    warning   training works, but slower, with less of the machine, or without a feature
    problem   training, or something that was installed for it, will fail

Not here: the checks (checks/), the order in which they run (doctor.py).
"""

from dataclasses import dataclass
from typing import Literal

FindingStatus = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    status: FindingStatus
    value: str
    """What is there, with units; measured values say so."""
    fix: str = ""
    """Instruction to follow; empty exactly where the status is ok."""

    def __post_init__(self) -> None:
        if self.status not in ("ok", "warning", "problem"):
            raise ValueError(f"status {self.status!r} is not ok, warning or problem")
        if not self.value.strip():
            raise ValueError("a finding needs a value")
        if bool(self.fix) == (self.status == "ok"):
            raise ValueError(f"a finding that is {self.status} {'has' if self.fix else 'lacks'} a fix")


def ok(value: str) -> Finding:
    """Return a finding without anything to do."""
    return Finding("ok", value)


def warning(value: str, fix: str) -> Finding:
    """Return a finding with which training works, but not at its best."""
    return Finding("warning", value, fix)


def problem(value: str, fix: str) -> Finding:
    """Return a finding with which training fails."""
    return Finding("problem", value, fix)
