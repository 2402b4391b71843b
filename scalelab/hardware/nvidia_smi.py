"""What nvidia-smi reports of every NVIDIA GPU: driver, used memory, clocks, power, compute mode.

It opens no context on a GPU, and it sees GPUs that the environment hides. Values that a GPU does not
report, as a MIG slice often does not, are None.
Source: `nvidia-smi --help-query-gpu`.
"""

import subprocess
from dataclasses import dataclass

QUERY = (
    "uuid",
    "driver_version",
    "memory.used",
    "clocks.max.sm",
    "power.limit",
    "power.default_limit",
    "compute_mode",
)
LIMIT_S = 3.0
"""Seconds to wait; it hangs where a GPU has failed."""
MIB = 2**20


@dataclass(frozen=True)
class SmiReport:
    """One GPU as nvidia-smi reports it."""

    uuid: str
    """Without the prefix GPU-."""
    driver: str | None
    used_bytes: float | None
    """Memory that any process uses."""
    max_clock_mhz: float | None
    """Highest clock of the multiprocessors."""
    power_limit_w: float | None
    default_power_w: float | None
    compute_mode: str | None
    """Default, Exclusive_Process or Prohibited."""


def smi_reports() -> tuple[tuple[SmiReport, ...], str]:
    """Return a report of every NVIDIA GPU, and why there is none; one of both is empty."""
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return (), f"nvidia-smi did not answer within {LIMIT_S:g} s"
    except OSError as error:
        return (), f"nvidia-smi cannot be run: {error.strerror}"
    if done.returncode:
        lines = (done.stdout + done.stderr).split("\n")
        return (), f"nvidia-smi failed: {next((x.strip() for x in lines if x.strip()), 'no message')}"
    rows = [line.split(",") for line in done.stdout.splitlines() if line.strip()]
    return tuple(_report(row) for row in rows if len(row) == len(QUERY)), ""


def _report(row: list[str]) -> SmiReport:
    cells = [None if (cell := text.strip()).startswith(("[", "N/A")) or not cell else cell for text in row]
    uuid, driver, used, clock, power, default, mode = cells
    used_mib = _number(used)
    return SmiReport(
        (uuid or "").removeprefix("GPU-"),
        driver,
        None if used_mib is None else used_mib * MIB,
        _number(clock),
        _number(power),
        _number(default),
        mode,
    )


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
