"""Clocks and power limits of NVIDIA GPUs, by nvidia-smi."""

from scalelab.hardware.finding import Finding, ok, warning
from scalelab.hardware.machine import Machine


def check_clocks(machine: Machine) -> Finding | None:
    """Check that no GPU has less power than its default; None without an NVIDIA GPU."""
    if not any(gpu.capability for gpu in machine.gpus):
        return None
    if machine.why_no_smi:
        return warning(
            f"unknown: {machine.why_no_smi}",
            "install nvidia-smi, which comes with the driver; if it hangs, see `dmesg`",
        )
    reports = [report for report in machine.reports if report is not None]
    if not reports:
        return warning(
            "unknown: nvidia-smi does not list these GPUs", "run `nvidia-smi -L` to see what it lists"
        )
    clocks = sorted({report.max_clock_mhz for report in reports if report.max_clock_mhz})
    value = f"up to {' or '.join(f'{clock:.0f}' for clock in clocks)} MHz" if clocks else "clock not reported"
    limited = [
        f"GPU {i} is limited to {r.power_limit_w:.0f} W of {r.default_power_w:.0f} W"
        for i, r in enumerate(machine.reports)
        if r is not None and r.power_limit_w and r.default_power_w and r.power_limit_w < r.default_power_w
    ]
    if limited:
        return warning(
            "; ".join((value, *limited)),
            "ask the owner to lift the limit (nvidia-smi -pl), or plan with a lower MFU",
        )
    return ok(value)
