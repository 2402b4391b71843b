"""Attention kernels: which of torch's scaled_dot_product_attention a GPU has, and FlashAttention-3.

    flash       NVIDIA from compute capability 8.0; AMD by architecture (AOTriton)
    cudnn       NVIDIA from 8.0
    efficient   NVIDIA from 5.0; AMD with flash
    math        everywhere; holds all scores in memory

Source: torch, aten/src/ATen/native/transformers/cuda/sdp_utils.cpp. Which of them a call takes also
depends on its shapes and mask. FlashAttention-3 (flash_attn_interface) is for compute capability 9.
"""

from scalelab.hardware.attention import FLASH_3_MAJOR, flash3_obstacle
from scalelab.hardware.device import Device
from scalelab.hardware.finding import Finding, ok, warning
from scalelab.hardware.machine import Machine

FLASH_CAPABILITY, EFFICIENT_CAPABILITY = (8, 0), (5, 0)
AMD_FLASH = ("gfx90a", "gfx94", "gfx95", "gfx11", "gfx12")
"""Beginnings of the AMD architectures for which AOTriton has kernels, some of them experimental."""


def check_attention(machine: Machine) -> Finding:
    """Check that a kernel without the whole matrix of scores is there."""
    if not machine.gpus:
        return ok("scores in memory or torch's CPU kernel, by context length")
    kernels = {gpu.name: sdpa_kernels(gpu) for gpu in machine.gpus}
    value = "; ".join(dict.fromkeys(", ".join(names) for names in kernels.values()))
    without = [name for name, names in kernels.items() if "flash" not in names]
    hopper = [gpu for gpu in machine.gpus if (gpu.capability or (0, 0))[0] == FLASH_3_MAJOR]
    if hopper:
        used = flash3_obstacle(hopper[0]) is None
        value += "; FlashAttention-3 is installed, and runs in bf16 use it" if used else ""
        value += "" if used else "; FlashAttention-3 is not installed, and runs use torch's kernel"
    if without:
        return warning(
            f"{value}; no FlashAttention on {', '.join(without)}",
            "use a GPU of compute capability 8.0 or higher and a build of torch with FlashAttention, "
            "or keep contexts short",
        )
    return ok(value)


def sdpa_kernels(gpu: Device) -> list[str]:
    """Return the kernels of scaled_dot_product_attention that a GPU has and that are switched on."""
    from torch.backends import cuda

    has_flash = cuda.is_flash_attention_available()
    if gpu.architecture is not None:
        has_flash = has_flash and gpu.architecture.startswith(AMD_FLASH)
        there = {"flash": has_flash, "efficient": has_flash}
    else:
        capability = gpu.capability or (0, 0)
        there = {
            "flash": has_flash and capability >= FLASH_CAPABILITY,
            "cudnn": capability >= FLASH_CAPABILITY,
            "efficient": capability >= EFFICIENT_CAPABILITY,
        }
    on = {
        "flash": cuda.flash_sdp_enabled,
        "cudnn": cuda.cudnn_sdp_enabled,
        "efficient": cuda.mem_efficient_sdp_enabled,
    }
    return [name for name, is_there in there.items() if is_there and on[name]()] + ["math"]
