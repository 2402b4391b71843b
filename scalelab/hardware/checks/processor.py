"""CPU cores that this process may use, their model and clock."""

import os
import re

from scalelab.hardware.finding import Finding, ok, warning
from scalelab.hardware.machine import Machine


def check_processor(machine: Machine) -> Finding:
    """Check the number of usable cores; every GPU needs at least one for its data and its kernels."""
    cores, limit = len(os.sched_getaffinity(0)), quota(machine)
    cpuinfo = machine.read("proc/cpuinfo") or ""
    model, clock = _field(cpuinfo, "model name"), _field(cpuinfo, "cpu MHz")
    value = f"{cores} cores"
    if cores < (os.cpu_count() or cores):
        value += f" of {os.cpu_count()}"
    value += "".join((f" of {model}" if model else "", f" at {float(clock) / 1000:.1f} GHz" if clock else ""))
    usable = cores
    if limit is not None and limit < cores:
        value, usable = f"{value}, limited to the time of {limit:.3g}", limit
    if threads := os.environ.get("OMP_NUM_THREADS"):
        value += f"; OMP_NUM_THREADS={threads}"
    if usable < max(1, len(machine.gpus)):
        return warning(
            f"{value}, for {len(machine.gpus) or 'no'} GPUs",
            "give the job at least one whole core for each GPU (--cpus of the container or scheduler)",
        )
    return ok(value)


def quota(machine: Machine) -> float | None:
    """Return the cores that a control group allows, as processor time over wall time; None without a limit."""
    words = (machine.read("sys/fs/cgroup/cpu.max") or "").split()
    if len(words) != 2:  # version 1 of control groups
        kept = [machine.read(f"sys/fs/cgroup/cpu/cpu.cfs_{what}_us") for what in ("quota", "period")]
        words = [word for word in kept if word]
    if len(words) != 2 or not all(word.isdigit() for word in words) or words[1] == "0":
        return None
    return int(words[0]) / int(words[1])


def _field(text: str, name: str) -> str:
    found = re.search(rf"^{name}\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1).strip() if found else ""
