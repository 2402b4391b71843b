"""Several runs on one GPU: whether their kernels run at the same time (NVIDIA's MPS) or take turns."""

from scalelab.hardware.finding import Finding, ok, warning
from scalelab.hardware.machine import Machine
from scalelab.hardware.sharing import mps_runs


def check_sharing(machine: Machine) -> Finding | None:
    """Check the daemon of MPS; None without an NVIDIA GPU. Runs can share a GPU without it."""
    if not any(gpu.capability for gpu in machine.gpus):
        return None
    runs = mps_runs()
    if runs is None:
        return warning(
            "the MPS daemon has left its pipe and does not answer, so it is not used",
            "stop it with `echo quit | nvidia-cuda-mps-control`, or start it with `nvidia-cuda-mps-control -d`",
        )
    if runs:
        return ok("MPS runs: kernels of several runs on one GPU run at the same time")
    return ok("MPS does not run: several runs on one GPU take turns")
