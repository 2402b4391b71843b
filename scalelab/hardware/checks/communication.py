"""Communication between the processes of one run: NCCL (RCCL on AMD) between GPUs, gloo between CPUs."""

import shutil

from scalelab.hardware.finding import Finding, ok, problem, warning
from scalelab.hardware.machine import Machine
from scalelab.units import size_text

LEAST_SHARED = 1e9
"""Bytes of /dev/shm; NCCL keeps buffers in it, and containers have 64 MB by default."""


def check_communication(machine: Machine) -> Finding:
    """Check that the processes of a launched run can communicate."""
    import torch
    import torch.distributed as dist

    if not dist.is_available():
        return warning(
            f"torch {torch.__version__} is built without torch.distributed, so a run has one process",
            "install an official build of torch: https://pytorch.org/get-started/locally",
        )
    if not machine.gpus:
        return ok("gloo, for layouts over CPU processes") if dist.is_gloo_available() else _no_gloo()
    several = len(machine.gpus) > 1
    if not dist.is_nccl_available():
        value, fix = "NCCL is missing", "install the official build of torch for this GPU, which brings it"
        if several:
            return problem(f"{value}, and {len(machine.gpus)} GPUs need it for one run", fix)
        return warning(f"{value}; one GPU does not need it", fix)
    name = "NCCL" if torch.version.hip is None else "RCCL"
    value = f"{name} {'.'.join(map(str, torch.cuda.nccl.version()))}"
    shared = machine.root / "dev/shm"
    size = shutil.disk_usage(shared).total if shared.is_dir() else None
    if several and size is not None and size < LEAST_SHARED:
        return warning(
            f"{value}; /dev/shm has {size_text(size)}",
            f"start the container with --shm-size={LEAST_SHARED / 1e9:g}g or more, or with --ipc=host",
        )
    return ok(value)


def _no_gloo() -> Finding:
    return warning("gloo is missing, so a run has one process", "install an official build of torch")
