"""What a command measured, and on what: the JSON record of `scalelab bench`.

    {"schema": 1, "date", "scalelab", "commit", "device": {...}, "minutes", "seconds", "benchmarks": [...]}

Not here: tables (report/bench).
"""

import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from multiprocessing.connection import Connection
from typing import Any

from scalelab.bench.child import ChildError, ChildProcess
from scalelab.bench.runner import BenchResult
from scalelab.errors import RunError

SCHEMA = 1
"""Version of the record."""
DESCRIBE_S = 120.0
"""Seconds after which a device that does not describe itself counts as broken."""


@dataclass(frozen=True)
class DeviceRecord:
    """The device under test and the software on it."""

    kind: str
    """cpu or cuda."""
    name: str
    """As its driver calls it; of a CPU its model."""
    memory_bytes: int | None
    capability: str | None
    """Compute capability "9.0", or an AMD architecture; None for a CPU."""
    precision: str
    """Precision of runs that leave the choice to the device."""
    driver: str | None
    """Version of the driver; None where it is unknown, as for a CPU."""
    torch: str
    cuda: str | None
    """Version of CUDA or ROCm that torch was built for; None without."""
    python: str
    threads: int
    """Threads of torch on the CPU."""
    peak_flops_per_s: float | None
    """Dense peak that the MFU is a share of; None where it is unknown, and there is no MFU."""
    peak_source: str | None
    """Source of that peak."""


def describe_device() -> DeviceRecord:
    """Return the record of the device that runs would find, asked for in a process that ends at once.

    Raises:
        RunError: The device cannot be used.
    """
    with ChildProcess(f"{__name__}:send_device") as child:
        try:
            return child.receive(time.monotonic() + DESCRIBE_S)
        except ChildError as error:
            raise RunError(
                f"the device cannot be used: {error.reason}",
                where="its properties, asked of torch",
                fix="run `scalelab doctor`, which says what is wrong",
            ) from error


def send_device(connection: Connection) -> None:
    """Send the record of the device; runs in a process of its own."""
    connection.send(device_record())


def device_record() -> DeviceRecord:
    """Return the record of the device that runs find in this process."""
    import platform

    import torch

    from scalelab.hardware.accelerators import by_driver_name
    from scalelab.hardware.device import find_device

    device = find_device()
    is_gpu = device.kind == "cuda"
    found = by_driver_name(device.name) if is_gpu else None
    capability = device.architecture
    if device.capability is not None:
        capability = ".".join(map(str, device.capability))
    return DeviceRecord(
        kind=device.kind,
        name=device.name if is_gpu else _processor() or device.name,
        memory_bytes=device.memory_bytes,
        capability=capability,
        precision=device.precision("auto"),
        driver=_driver() if is_gpu else None,
        torch=torch.__version__,
        cuda=(torch.version.cuda or torch.version.hip) if is_gpu else None,
        python=platform.python_version(),
        threads=torch.get_num_threads(),
        peak_flops_per_s=None if found is None else found.peak_flops_per_s,
        peak_source=None if found is None else f"{found.name}: {found.source}",
    )


def _driver() -> str | None:
    from scalelab.hardware.nvidia_smi import smi_reports

    reports, _ = smi_reports()
    return reports[0].driver if reports else None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            found = re.search(r"^model name\s*:\s*(.+)$", file.read(), re.MULTILINE)
    except OSError:
        return ""
    return found.group(1).strip() if found else ""


@dataclass(frozen=True)
class BenchRecord:
    """Everything that one command measured."""

    date: datetime
    """Start of the command, with its time zone."""
    code: dict[str, str]
    """Version and commit of the code."""
    device: DeviceRecord
    minutes: float
    """Length that the command was given."""
    seconds: float
    """Seconds that it took."""
    results: Sequence[BenchResult]

    @property
    def n_failed(self) -> int:
        """Number of failed rows."""
        return sum(row.status == "failed" for result in self.results for row in result.rows)

    @property
    def file_name(self) -> str:
        """Name of the file of the record: device and day, "nvidia-h200-2026-11-29.json"."""
        device = re.sub(r"[^a-z0-9]+", "-", self.device.name.lower()).strip("-") or self.device.kind
        return f"{device}-{self.date:%Y-%m-%d}.json"

    def to_json(self) -> dict[str, Any]:
        """The record as JSON types."""
        return {
            "schema": SCHEMA,
            "date": self.date.isoformat(timespec="seconds"),
            **self.code,
            "device": asdict(self.device),
            "minutes": self.minutes,
            "seconds": self.seconds,
            "benchmarks": [result.to_json() for result in self.results],
        }
