"""The precision of runs with `precision: auto` on the devices of this machine."""

from scalelab.hardware.device import find_device
from scalelab.hardware.finding import Finding, ok, warning
from scalelab.hardware.fp8 import fp8_obstacle
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
    value = "bf16, with fp32 master weights and sums"
    lack = list(dict.fromkeys(gpu.name for gpu in machine.gpus if fp8_obstacle(gpu) is not None))
    return ok(f"{value}; no fp8 on {', '.join(lack)}" if lack else f"{value}; fp8 with `matmul: fp8`")
