"""What the program runs on, found at run time and recorded with every result.

Precision, as asked for in a spec and as it comes out on a device:

    asked   CPU with native bf16 products   other CPU   GPU
    auto    bf16                            fp32        bf16
    bf16    bf16                            bf16, slow  bf16
    fp32    fp32                            fp32        fp32

Master weights, moments and the final validation loss on the CPU are fp32 always.
"""

import ctypes
import os
import platform
from dataclasses import dataclass

import torch

from scalelab.accelerators import peak_flops_per_s

OutOfMemory = torch.OutOfMemoryError
"""What a device's allocator raises when it is full."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


@dataclass(frozen=True)
class Device:
    """One place to train."""

    kind: str
    """cpu or cuda."""
    name: str
    """What its driver calls it."""
    memory_bytes: int | None
    """Memory it has; None where nobody says."""

    @property
    def torch(self) -> torch.device:
        """The same for torch. Which GPU is decided by the environment, not here."""
        return torch.device(self.kind)

    @property
    def peak_flops_per_s(self) -> float | None:
        """Dense bf16 peak (fp16 on devices without bf16); None when unknown, as for any CPU."""
        return peak_flops_per_s(self.name) if self.kind == "cuda" else None

    def precision(self, asked: str) -> str:
        """The precision a run gets here: fp32 or bf16."""
        if asked != "auto":
            return asked
        return "bf16" if self.kind == "cuda" or cpu_multiplies_bf16() else "fp32"


def find_device() -> Device:
    """The GPU that the environment shows, else the CPU."""
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return Device("cuda", properties.name, properties.total_memory)
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Device("cpu", platform.processor() or platform.machine(), pages)


def cpu_multiplies_bf16() -> bool:
    """Whether this CPU has instructions for bf16 products; without them bf16 is slower."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def use_threads(n: int | None) -> None:
    """Compute on n CPU threads, and let the process keep the memory that it frees.

    None, as on a GPU, leaves both as they are.
    """
    if n is not None:
        torch.set_num_threads(n)
        _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Let glibc hand freed blocks out again instead of returning them to the kernel.

    By default what a step frees at the heap's end is trimmed, and the next step faults it in
    again page by page: 700-1,900 faults a step of 1024 tokens at widths 16 and 64 in bf16, under
    ten with this. CPU seconds of a step fell by 24% and 16% there, by 3% at width 32, by 7% at
    4 layers of width 192, by 0-8% in fp32. Where there is no glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 2**25)  # the most that glibc accepts
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def probe() -> list[dict[str, object]]:
    """Every device of this machine, for whoever hands out work: [{kind, name, memory_bytes}].

    Run in a process of its own: asking a GPU for its properties opens a context on it.
    """
    if not torch.cuda.is_available():
        device = find_device()
        return [{"kind": "cpu", "name": device.name, "memory_bytes": device.memory_bytes}]
    every = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [{"kind": "cuda", "name": p.name, "memory_bytes": p.total_memory} for p in every]
