"""The driver of the GPUs, and GPUs that are there but that torch cannot use.

Found in this order: GPUs that torch uses; device files, which the driver makes; the PCI bus, which
shows a GPU without its driver.
"""

import os
import re

from scalelab.hardware.finding import Finding, ok, problem, warning
from scalelab.hardware.machine import Machine

NVIDIA, AMD = "0x10de", "0x1002"
"""PCI identifiers of the vendors."""
DISPLAY = "0x03"
"""Beginning of the PCI class of display and 3D controllers."""
HIDING = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
BUILDS = "https://pytorch.org/get-started/locally"


def check_driver(machine: Machine) -> Finding:
    """Check that torch can use the GPUs of this machine."""
    import torch

    cuda, rocm = torch.version.cuda, torch.version.hip
    build = f"CUDA {cuda}" if cuda else f"ROCm {rocm}" if rocm else None
    if machine.gpus:
        kind = "NVIDIA" if torch.version.hip is None else "AMD"
        loaded = driver_version(machine)
        return ok(f"{kind} {loaded or 'driver of unknown version'}, torch {torch.__version__} for {build}")
    nodes = machine.names("dev/nvidia[0-9]*") + machine.names("dev/kfd")
    vendors = {v for path in machine.names("sys/bus/pci/devices/*") if (v := _vendor(machine, path))}
    if not nodes and not vendors:
        return ok("no GPU on this machine; training uses the CPU")
    if not nodes:
        return warning(
            f"{' and '.join(sorted(vendors))} GPU on the PCI bus, and no driver for it here",
            "install the driver; in a container, pass the GPU on (docker run --gpus all)",
        )
    if build is None:
        return problem(
            f"there is a GPU ({', '.join(nodes)}), and torch {torch.__version__} is built for CPUs only",
            f"install the build of torch for it: {BUILDS}",
        )
    if hidden := [f"{name}={os.environ[name]!r}" for name in HIDING if name in os.environ]:
        return warning(
            f"there is a GPU ({', '.join(nodes)}), and {' and '.join(hidden)} shows none",
            "unset the variable, or set it to the numbers of GPUs that are there",
        )
    return problem(
        f"torch {torch.__version__} for {build} cannot use the GPU ({', '.join(nodes)}): "
        f"{machine.why_no_gpu or 'it gives no reason'}; driver {driver_version(machine) or 'of unknown version'}",
        f"update the driver, or install the build of torch for this driver: {BUILDS}",
    )


def driver_version(machine: Machine) -> str | None:
    """Return the version of the loaded driver; None where it cannot be found."""
    if text := machine.read("proc/driver/nvidia/version"):
        found = re.search(r"Kernel Module(?: for \S+)?\s+([\d.]+)", text)
        if found:
            return found.group(1)
    reported = next((report.driver for report in machine.smi if report.driver), None)
    return reported or machine.read("sys/module/amdgpu/version")


def _vendor(machine: Machine, path: str) -> str | None:
    if not (machine.read(f"{path}/class") or "").startswith(DISPLAY):
        return None
    return {NVIDIA: "NVIDIA", AMD: "AMD"}.get(machine.read(f"{path}/vendor") or "")
