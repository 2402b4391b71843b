"""The precision of runs with `precision: auto` on the devices of this machine."""

from scalelab.hardware.device import find_device
from scalelab.hardware.finding import Finding, ok, warning
from scalelab.hardware.machine import Machine


def check_precision(machine: Machine) -> Finding:
    """Check that the GPUs multiply bf16; on a CPU either precision is as it should be."""
    if not machine.gpus:
        precision = find_device().precision("auto")
        return ok(
            "bf16 (the CPU multiplies it)" if precision == "bf16" else "fp32 (the CPU does not multiply bf16)"
        )
    notes = list(dict.fromkeys(note for gpu in machine.gpus if (note := gpu.precision_note("auto"))))
    if notes:
        return warning(
            "; ".join(notes), "use GPUs of compute capability 8.0 or higher, or plan with fp32 speed"
        )
    return ok("bf16, with fp32 master weights and sums")
