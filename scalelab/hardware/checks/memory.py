"""Memory of the host within its limits, and of GPUs that other processes already use."""

from scalelab.hardware.finding import Finding, ok, warning
from scalelab.hardware.machine import Machine
from scalelab.units import size_text

LEAST_HOST = 2e9
"""Bytes; below it torch, the tokens and one small run hardly fit."""
SHARE_USED = 0.05
"""Share of a GPU's memory above which another process is taken to be at work on it."""
KIB = 1024


def check_memory(machine: Machine) -> Finding:
    """Check the free memory of the host and of the GPUs."""
    total, free = host_bytes(machine)
    parts = ["host memory unknown" if free is None else f"host {size_text(free)} free of {size_text(total)}"]
    busy = []
    for i, (gpu, report) in enumerate(zip(machine.gpus, machine.reports, strict=True)):
        used = None if report is None else report.used_bytes
        if used is not None and gpu.memory_bytes and used > SHARE_USED * gpu.memory_bytes:
            busy.append(f"GPU {i} has {size_text(used)} of {size_text(gpu.memory_bytes)} in use")
    sizes = sorted({gpu.memory_bytes for gpu in machine.gpus if gpu.memory_bytes})
    if sizes:
        parts.append("each GPU " + " or ".join(size_text(size) for size in sizes))
    value = "; ".join((*parts, *busy))
    if busy:
        return warning(
            value,
            "end the other processes (nvidia-smi lists them), or hide these GPUs with CUDA_VISIBLE_DEVICES",
        )
    if free is not None and free < LEAST_HOST:
        return warning(
            value, f"have {size_text(LEAST_HOST)} free: end other programs, or raise the job's limit"
        )
    return ok(value)


def host_bytes(machine: Machine) -> tuple[float, float] | tuple[None, None]:
    """Return total and free memory of the host, bytes, within the limit of its control group."""
    fields = dict(
        line.split(":", 1) for line in (machine.read("proc/meminfo") or "").splitlines() if ":" in line
    )
    try:
        total = KIB * int(fields["MemTotal"].split()[0])
        free = KIB * int(fields["MemAvailable"].split()[0])
    except (KeyError, ValueError, IndexError):
        return None, None
    limit, used = machine.read("sys/fs/cgroup/memory.max"), machine.read("sys/fs/cgroup/memory.current")
    if limit and used and limit.isdigit() and used.isdigit() and int(limit) < total:
        total, free = int(limit), max(0, min(free, int(limit) - int(used)))
    return total, free
