"""Seconds that a device takes for a fixed piece of work: how a process shows whether it is slow.

The steps themselves do not show it: in them all processes wait for the slowest.

On a GPU the time between two events in the device's own queue is read, so neither the work queued
before nor the time to launch counts; the work is large enough that the device never waits for the next
launch. Elsewhere it is wall time from an idle device to an idle device.

Not here: who counts as slow (train/stability.py).
"""

import time
from collections.abc import Callable

import torch

from scalelab.hardware.device import Device

TIMES = 3
"""Repetitions, of which the fastest counts."""
GPU_WIDTH, GPU_PRODUCTS = 2048, 16
"""Width of the square matrices of a GPU, and products in a row: 0.3 TFLOP, milliseconds, 32 MiB."""
CPU_WIDTH, CPU_PRODUCTS = 256, 1


def own_seconds(device: Device) -> float:
    """Return the seconds that this process's device takes for the work of the probe, the fastest of a few."""
    is_gpu = device.kind == "cuda"
    width, products = (GPU_WIDTH, GPU_PRODUCTS) if is_gpu else (CPU_WIDTH, CPU_PRODUCTS)
    square = torch.ones(width, width, device=device.torch)
    out = torch.empty_like(square)

    def work() -> None:
        for _ in range(products):
            torch.mm(square, square, out=out)

    return min(device_seconds(device, work) for _ in range(TIMES))


def device_seconds(device: Device, work: Callable[[], object]) -> float:
    """Return the seconds that the device itself takes for some work, without those of launching it.

    Args:
        device: Of this process.
        work: Gives the device the work; it need not wait for it.
    """
    if device.kind != "cuda":
        device.synchronize()
        begun = time.perf_counter()
        work()
        device.synchronize()
        return time.perf_counter() - begun
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000
