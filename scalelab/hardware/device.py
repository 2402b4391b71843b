"""What the program runs on, found at run time and recorded with every result.

Precision, as asked for in a spec and as it comes out on a device:

    asked   CPU with native bf16 products   other CPU   GPU with them   other GPU (V100, T4)
    auto    bf16                            fp32        bf16            fp32
    bf16    bf16                            bf16, slow  bf16            refused
    fp32    fp32                            fp32        fp32            fp32

A GPU has native bf16 products from compute capability 8.0 on (NVIDIA), or by its architecture (AMD).
There is no fp16: it would need loss scaling, which no run has.
Master weights, moments and the final validation loss on the CPU are fp32 always.

Outside of training runs:

    TRL's trainers                         bf16 with fp32 weights (autocast) where auto is bf16 on a GPU, else fp32
    our stages, answers, tasks, rewards    fp32, products in TF32 on NVIDIA GPUs from 8.0 on (tf32_products)
    losses of text (evals/loss), and the   fp32, products too: they are held against forecasts to a thousandth
    overlap of corpora                     of a nat

TF32 rounds the factors of a product to 10 bits and sums in fp32. Rounding them so on a CPU changed the mean
loss of a text by less than TF32_NATS (simulated: tests/gpu_without_gpu/test_tf32.py).

Not here: whether the device can compile (compiler.py).
"""

import ctypes
import gc
import os
import platform
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from scalelab.errors import RunError
from scalelab.hardware.accelerators import peak_flops_per_s

OutOfMemory = torch.OutOfMemoryError
"""What a device's allocator raises when it is full."""

BF16_CAPABILITY = (8, 0)
"""Compute capability from which on NVIDIA GPUs multiply bf16: CUDA C++ programming guide, table of
arithmetic by capability. torch.cuda.is_bf16_supported() also counts emulation."""
BF16_ARCHITECTURES = ("gfx908", "gfx90a", "gfx94", "gfx95", "gfx11", "gfx12")
"""Beginnings of AMD's architectures with matrix products of bf16: CDNA and RDNA 3 or later, by the
table of data types in the ROCm documentation."""

TF32_CAPABILITY = (8, 0)
"""Compute capability from which on NVIDIA GPUs multiply TF32: CUDA C++ programming guide."""
TF32_NATS = 1e-3
"""Largest change of the mean loss of a text by TF32 that is accepted, nats per token."""

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
    capability: tuple[int, int] | None = None
    """Compute capability of an NVIDIA GPU, such as (9, 0); None for other devices."""
    architecture: str | None = None
    """Architecture of an AMD GPU, such as gfx942; None for other devices."""

    @property
    def torch(self) -> torch.device:
        """The device for torch. The environment decides which GPU, not this."""
        return torch.device(self.kind)

    @property
    def peak_flops_per_s(self) -> float | None:
        """Dense bf16 peak (fp32 on devices without bf16); None when unknown, as for any CPU."""
        return peak_flops_per_s(self.name) if self.kind == "cuda" else None

    def synchronize(self) -> None:
        """Wait until the device has done all work that it was given; a CPU queues none."""
        if self.kind == "cuda":
            torch.cuda.synchronize()

    @property
    def multiplies_bf16(self) -> bool:
        """Whether it has instructions for bf16 products. A GPU of unknown capability has none."""
        if self.kind == "cpu":
            return cpu_multiplies_bf16()
        if self.architecture is not None:
            return self.architecture.startswith(BF16_ARCHITECTURES)
        return self.capability is not None and self.capability >= BF16_CAPABILITY

    @property
    def multiplies_tf32(self) -> bool:
        """Whether it is an NVIDIA GPU with instructions for TF32 products."""
        return self.kind == "cuda" and self.capability is not None and self.capability >= TF32_CAPABILITY

    @property
    def trl_precision(self) -> str:
        """Precision of TRL's trainers here: bf16 on a GPU that multiplies it, else fp32."""
        return self.precision("auto") if self.kind == "cuda" else "fp32"

    @property
    def level(self) -> str:
        """Capability or architecture in words: "compute capability 7.5"."""
        if self.capability is not None:
            return "compute capability " + ".".join(map(str, self.capability))
        return f"architecture {self.architecture or 'unknown'}"

    def precision(self, asked: str) -> str:
        """The precision a run gets here: fp32 or bf16.

        Raises:
            RunError: bf16 is asked for on a GPU that does not multiply it.
        """
        if asked == "auto":
            return "bf16" if self.multiplies_bf16 else "fp32"
        if asked == "bf16" and self.kind == "cuda" and not self.multiplies_bf16:
            raise RunError(
                f"precision is bf16, and {self.name} ({self.level}) does not multiply bf16",
                where=f"the device {self.name}",
                fix="set `precision: auto` or `precision: fp32`, or use a GPU of compute capability "
                f"{'.'.join(map(str, BF16_CAPABILITY))} or higher",
            )
        return asked

    def precision_note(self, asked: str) -> str:
        """Why a GPU computes in fp32 although nobody asked for it; empty where it does not."""
        if asked != "auto" or self.kind == "cpu" or self.multiplies_bf16:
            return ""
        return (
            f"precision auto is fp32 here: {self.name} ({self.level}) does not multiply bf16, "
            "and fp16 is not supported"
        )

    def compile_mode(self, asked: str) -> str:
        """How a network is compiled here: off, block or whole. auto is block on a GPU, off on a CPU."""
        if asked != "auto":
            return asked
        return "block" if self.kind == "cuda" else "off"


def find_device() -> Device:
    """The GPU that the environment shows, else the CPU."""
    if torch.cuda.is_available():
        return gpu(0)
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Device("cpu", platform.processor() or platform.machine(), pages)


@contextmanager
def tf32_products(device: Device | None = None) -> Iterator[bool]:
    """Let products of fp32 matrices use TF32 within the context, where the device has it.

    Args:
        device: The device that computes; None: the one that is found.

    Yields: Whether TF32 is used. On a CPU nothing is changed.
    """
    device = device or find_device()
    if not device.multiplies_tf32:
        yield False
        return
    # Not fp32_precision: once that is set, torch raises when older settings are read.
    products = torch.backends.cuda.matmul
    before, products.allow_tf32 = products.allow_tf32, True
    try:
        yield True
    finally:
        products.allow_tf32 = before


def reason_of(error: OutOfMemory) -> str:
    """Return the first line of an allocator's error, and release what its traceback holds.

    The frames of an error, and of those that it was raised from, keep every tensor of the failed
    computation alive until they are cleared.
    """
    pending, seen = [error], set()
    while pending:
        found = pending.pop()
        if found is not None and id(found) not in seen:
            seen.add(id(found))
            traceback.clear_frames(found.__traceback__)
            pending += [found.__cause__, found.__context__]
    return next(iter(str(error).splitlines()), "out of memory")


def free_cached_memory(device: Device) -> None:
    """Return memory that no tensor uses to the device's driver; objects in cycles are collected first."""
    gc.collect()
    if device.kind == "cuda":
        torch.cuda.empty_cache()


def gpu(index: int) -> Device:
    """The GPU of an index, as torch counts those that the environment shows."""
    properties = torch.cuda.get_device_properties(index)
    name, memory = properties.name, properties.total_memory
    if torch.version.hip is not None:
        return Device("cuda", name, memory, architecture=properties.gcnArchName.partition(":")[0])
    return Device("cuda", name, memory, (properties.major, properties.minor))


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
    """Every device of this machine, for whoever hands out work: [{kind, name, memory_bytes, auto, is_amd}].

    `auto` is the precision of a run that leaves the choice to the device. Run in a process of its
    own: asking a GPU for its properties opens a context on it.
    """
    if torch.cuda.is_available():
        every = [gpu(i) for i in range(torch.cuda.device_count())]
    else:
        every = [find_device()]
    return [
        {
            "kind": d.kind,
            "name": d.name,
            "memory_bytes": d.memory_bytes,
            "auto": d.precision("auto"),
            "is_amd": d.architecture is not None,
        }
        for d in every
    ]
