"""All checks of a machine, in the order of their table.

A check that fails itself is a problem with its name; the others still run.

Not here: how the findings are shown (report/doctor), the exit status (cli/doctor.py).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from scalelab.errors import ScalelabError
from scalelab.hardware import CHECKS
from scalelab.hardware.finding import Finding, problem
from scalelab.hardware.machine import Machine


@dataclass(frozen=True)
class CheckResult:
    """The finding of one check, by the name of the check."""

    name: str
    finding: Finding

    def to_json(self) -> dict[str, Any]:
        """The record as JSON types; `fix` is null where there is nothing to do."""
        found = self.finding
        return {"check": self.name, "status": found.status, "value": found.value, "fix": found.fix or None}


def run_checks(machine: Machine, checks: Mapping[str, Any] = CHECKS) -> Iterator[CheckResult]:
    """Yield the result of each check that applies to a machine.

    Args:
        machine: What is checked.
        checks: Functions of a Machine by name.
    """
    for name in checks:
        finding = _finding(name, machine, checks)
        if finding is not None:
            yield CheckResult(name, finding)


def _finding(name: str, machine: Machine, checks: Mapping[str, Any]) -> Finding | None:
    try:
        finding = checks[name](machine)
    except ScalelabError as error:
        return problem(error.problem, error.fix)
    except Exception as error:  # of a driver, of torch or of another package
        return problem(
            f"could not be checked: {type(error).__name__}: {' '.join(str(error).split())}",
            f"correct what the message names, then run `scalelab doctor` again; the check is {name}",
        )
    if finding is None or isinstance(finding, Finding):
        return finding
    return problem(
        f"the check returned {type(finding).__name__} instead of a Finding",
        f"correct or uninstall the package that adds the check {name}",
    )
