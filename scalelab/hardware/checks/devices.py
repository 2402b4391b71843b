"""The devices that training will use: how many, which, and whether their peak is known."""

from collections import Counter

from scalelab.hardware.device import find_device
from scalelab.hardware.finding import Finding, ok, warning
from scalelab.hardware.machine import Machine

SHARED = "Default"
"""Compute mode in which several processes may use a GPU."""


def check_devices(machine: Machine) -> Finding:
    """Check the GPUs: one model, known peak, open to several processes."""
    if not machine.gpus:
        return ok(f"no GPU; training uses the CPU ({find_device().name})")
    counts = Counter(gpu.name for gpu in machine.gpus)
    value = ", ".join(f"{n} x {name}" for name, n in counts.items())
    modes = {r.compute_mode for r in machine.reports if r is not None and r.compute_mode} - {SHARED}
    if modes:
        return warning(
            f"{value}; compute mode {' and '.join(sorted(modes))}, so that two runs cannot share a GPU",
            "set `executor: {kind: local, max_runs_per_gpu: 1}` under `launch:` in the sweep file, "
            "or ask the owner to run `nvidia-smi -c 0`",
        )
    if len(counts) > 1:
        return warning(
            f"{value}; times and estimates are those of the first one",
            "use GPUs of one model: choose them with CUDA_VISIBLE_DEVICES",
        )
    if any(" MIG " in name for name in counts):
        return warning(
            f"{value}; a slice of a GPU (MIG) has no published peak, so no MFU is reported",
            "use a whole GPU where MFU or several GPUs a run are needed",
        )
    if machine.gpus[0].peak_flops_per_s is None:
        return warning(
            f"{value}; its peak is unknown, so no MFU is reported",
            "describe it under `accelerators:` in a rates file (--rates) for plans and costs",
        )
    return ok(value)
