"""Conformance of checks of `scalelab doctor`: members of CHECKS, of any package."""

import time
from pathlib import Path

from scalelab.hardware import CHECKS
from scalelab.hardware.finding import Finding
from scalelab.hardware.machine import Machine

LIMIT_S = 5.0
"""Seconds that one check may take; all of them together are waited for."""


def check_check(name: str, machine: Machine) -> Finding | None:
    """Check the contract of a check on a machine, and return its finding.

    Args:
        name: Name in the table of checks.
        machine: This one, or a pretended one. Its directory of runs exists.

    Raises:
        AssertionError: It raises, returns no Finding, writes lines of output as a value, takes longer than
            LIMIT_S, changes its mind, or leaves a file with the runs.
    """
    before, begun = _files(machine.runs), time.perf_counter()
    try:
        found, again = CHECKS[name](machine), CHECKS[name](machine)
    except Exception as error:
        raise AssertionError(f"{name} raises {type(error).__name__}: {error}") from error
    seconds = (time.perf_counter() - begun) / 2
    assert seconds < LIMIT_S, f"{name} takes {seconds:.1f} s"
    assert _files(machine.runs) == before, f"{name} leaves files with the runs"
    if found is None:
        assert again is None, f"{name} applies only the second time"
        return None
    assert isinstance(found, Finding), f"{name} returns {type(found).__name__}"
    assert again is not None, f"{name} applies only the first time"
    assert again.status == found.status, f"{name} is {found.status}, then {again.status}"
    for text in (found.value, found.fix):
        assert "\n" not in text, f"{name} writes several lines: {text!r}"
        assert not text.endswith("."), (
            f"{name} ends with a full stop, which the report adds where it is due: {text!r}"
        )
    return found


def _files(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*"))
