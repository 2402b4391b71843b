"""Whether a device multiplies matrices in fp8: NVIDIA GPUs from compute capability 8.9 on.

Source: what torch._scaled_mm refuses ("compute capability >= 9.0 or 8.9, or ROCm MI300+"). On AMD's GPUs, some of
which have other formats, it was never tried here; on a CPU it only makes a run slower.
Not here: the products (model/fp8.py).
"""

from scalelab.hardware.device import Device

FP8_CAPABILITY = (8, 9)
"""Compute capability from which on NVIDIA GPUs multiply fp8."""


def fp8_obstacle(device: Device) -> tuple[str, str] | None:
    """Return why a device cannot multiply in fp8, and the fix; None where it can."""
    if device.capability is not None and device.capability >= FP8_CAPABILITY:
        return None
    where = device.name if device.kind == "cpu" else f"{device.name} ({device.level})"
    least = ".".join(map(str, FP8_CAPABILITY))
    return (
        f"products in fp8 need an NVIDIA GPU of compute capability {least} or higher, not {where}",
        "set `matmul: plain`, or use an L40S, H100 or newer",
    )
