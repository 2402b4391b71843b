"""Whether a GPU can use FlashAttention-3: its package (flash_attn_interface) has kernels for Hopper.

Source: Shah et al. 2024, arXiv:2407.08608; the package's own notes: H100 and H800, CUDA 12.3 or later.
Not here: the kernels of torch itself (checks/attention.py), the call (model/kernels.py).
"""

from importlib.util import find_spec

from scalelab.hardware.device import Device

FLASH_3_MAJOR = 9
"""Major compute capability of the GPUs that its kernels are built for."""
FLASH_3_MODULE = "flash_attn_interface"


def flash3_obstacle(device: Device) -> tuple[str, str] | None:
    """Return why a device cannot use FlashAttention-3, and the fix; None where it can."""
    if device.capability is None or device.capability[0] != FLASH_3_MAJOR:
        where = device.name if device.kind == "cpu" else f"{device.name} ({device.level})"
        return (
            f"FlashAttention-3 needs a GPU of compute capability {FLASH_3_MAJOR}, not {where}",
            "set `attention: auto` or `attention: sdpa`, or use an H100 or H200",
        )
    if find_spec(FLASH_3_MODULE) is None:
        return (
            f"the package of FlashAttention-3, {FLASH_3_MODULE}, is not installed",
            "install it from the folder hopper of github.com/Dao-AILab/flash-attention, or set "
            "`attention: auto`, which uses torch's own kernels here",
        )
    return None
