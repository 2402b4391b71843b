"""Whether this build of torch has kernels for the GPUs."""

import re

from scalelab.hardware.device import Device
from scalelab.hardware.finding import Finding, ok, problem
from scalelab.hardware.machine import Machine


def check_capability(machine: Machine) -> Finding | None:
    """Check the compute capability of each GPU against the architectures of torch; None without a GPU."""
    if not machine.gpus:
        return None
    import torch

    built = torch.cuda.get_arch_list()
    levels = ", ".join(sorted({gpu.level for gpu in machine.gpus}))
    lacking = sorted({f"{gpu.name} ({gpu.level})" for gpu in machine.gpus if not has_kernels(gpu, built)})
    if lacking:
        return problem(
            f"torch {torch.__version__} has no kernels for {', '.join(lacking)}; it has {', '.join(built)}",
            "install a build of torch with kernels for it (https://pytorch.org/get-started/previous-versions), "
            "or use a newer GPU",
        )
    return ok(levels)


def has_kernels(gpu: Device, built: list[str]) -> bool:
    """Return whether a GPU can run a build with these architectures.

    Binary kernels (sm_86) run on GPUs of the same major capability and at least the minor one; portable
    ones (compute_90) on all later GPUs; those with an ending for a GPU (sm_90a) on that one only, those
    for a family (sm_100f) like binary ones. Source: CUDA C++ programming guide, application
    compatibility.
    An empty list, as of a build that does not report one, counts as kernels for all.
    """
    if not built:
        return True
    if gpu.architecture is not None:
        return gpu.architecture in built
    if gpu.capability is None:
        return True
    for name in built:
        found = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", name)
        if found is None:
            continue
        of, ending = (int(found.group(2)), int(found.group(3))), found.group(4)
        is_portable = found.group(1) == "compute" and not ending
        if of == gpu.capability:
            return True
        if of < gpu.capability and ending != "a" and (is_portable or of[0] == gpu.capability[0]):
            return True
    return False
