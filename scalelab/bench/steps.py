"""Timed training steps on random tokens: those of the training loop, without corpus, logs and checkpoints.

    rate      median over BLOCKS blocks of steps; the device is waited for at the end of a block only
    spread    (fastest - slowest) / median of the blocks
    peak      of a GPU what torch's allocator held at most; on Linux the most resident memory of the
              process, Python and libraries included

The first FIRST_STEPS steps compile, fill caches and set memory aside; they are not part of the rate.

Not here: a run's own clock (train/step_clock.py), estimates for a plan (train/throughput.py).
"""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from scalelab.hardware.device import Device, free_cached_memory
from scalelab.train.engines.single import SingleEngine
from scalelab.train.memory import SHARE_OF_DEVICE, first_micro_rows, run_bytes
from scalelab.train.spec import RunSpec
from scalelab.train.step_clock import FIRST_STEPS
from scalelab.units import duration, size_text

BLOCKS = 3
BATCHES = 4
"""Different random batches, taken in turn."""
MOST_STEPS = 300
"""Most steps of a block."""
PRODUCT_SIZES = {"cpu": 1024, "cuda": 8192}
"""Rows of the square matrices of the product whose rate is measured."""
PRODUCT_S = 0.3
"""Seconds for which products are repeated."""
COMPILE_S = 15.0
"""Seconds that the first step of a compiled model is assumed to take, when it is decided what to begin."""


@dataclass(frozen=True)
class StepRate:
    """Steps per second, and what they took."""

    steps_per_s: float
    spread: float | None
    """(fastest - slowest) / median of the blocks; None where there was time for one only."""
    first_steps_s: float
    """Seconds of the first FIRST_STEPS steps."""
    n_steps: int
    """Timed steps."""
    peak_bytes: int | None
    """Most memory during all of these steps; None where it cannot be asked for."""


class TrainingSteps:
    """A model on a device, ready for steps.

    Args:
        spec: The run. Its corpus is not opened.
        device: Device that trains.
    """

    def __init__(self, spec: RunSpec, device: Device):
        self.spec, self.device = spec, device
        self.precision = device.precision(spec.precision)
        rows = first_micro_rows(spec, device.kind, device.memory_bytes, self.precision)
        self.engine = SingleEngine(spec, device, self.precision, rows)
        generator = torch.Generator().manual_seed(spec.seed)
        shape = (BATCHES, spec.batch_tokens // spec.seq_len, spec.seq_len + 1)
        self.batches = torch.randint(spec.model.vocab_size, shape, generator=generator)
        self.taken = 0

    def step(self) -> torch.Tensor:
        """Take one step as the loop does, and return its loss without waiting for it."""
        batch = self.batches[self.taken % BATCHES]
        if self.device.torch.type == "cuda":
            batch = batch.pin_memory().to(self.device.torch, non_blocking=True)
        loss = self.engine.gradient(batch)
        self.engine.update(1e-2, self.engine.norm())
        self.taken += 1
        return loss

    def losses(self, n: int, factor: float = 1.0) -> list[float]:
        """Return the losses of n steps that all train on the first batch, nats per token.

        Args:
            n: Number of steps.
            factor: Factor on the peak learning rates.
        """
        batch, found = self.batches[0].to(self.device.torch), []
        for _ in range(n):
            found.append(float(self.engine.gradient(batch)))
            self.engine.update(factor, self.engine.norm())
        return found

    def seconds(self, n: int) -> float:
        """Return the seconds of n steps, from an idle device to an idle device."""
        self.device.synchronize()
        begun = time.perf_counter()
        for _ in range(n):
            self.step()
        self.device.synchronize()
        return time.perf_counter() - begun

    def rate(self, seconds: float, ends: float) -> StepRate | str:
        """Return the rate of the steps, or why there is none.

        Args:
            seconds: Seconds that the timed steps should take.
            ends: Time limit on the clock of time.monotonic.
        """
        is_reset = reset_peak_memory(self.device)
        first = self.seconds(FIRST_STEPS)
        if time.monotonic() > ends:
            return f"its first {FIRST_STEPS} steps took {duration(first)}, so no time is left for others"
        one = max(self.seconds(1), 1e-6)
        n_steps = max(1, min(MOST_STEPS, int(seconds / BLOCKS / one)))
        rates: list[float] = []
        for _ in range(BLOCKS):
            if rates and time.monotonic() + n_steps * one > ends:
                break
            rates.append(n_steps / self.seconds(n_steps))
        middle = statistics.median(rates)
        peak = peak_memory(self.device) if is_reset else None
        spread = (max(rates) - min(rates)) / middle if len(rates) > 1 else None
        return StepRate(middle, spread, first, n_steps * len(rates), peak)

    def close(self) -> None:
        """Let go of the model and the memory of the device, that of its CUDA graphs included."""
        self.engine.drop_graphs()
        del self.engine
        free_cached_memory(self.device)


def obstacle_to_steps(spec: RunSpec, device: Device, product_flops_per_s: float, ends: float) -> str:
    """Return why a model is not begun: memory or time; empty where it is.

    Args:
        spec: The run.
        device: Device that trains.
        product_flops_per_s: Measured FLOP/s of a matrix product; a step is not faster.
        ends: Time limit on the clock of time.monotonic.
    """
    precision = device.precision(spec.precision)
    need = run_bytes(spec, precision, 1, device.kind, device.memory_bytes)
    if device.memory_bytes is not None and need > SHARE_OF_DEVICE * device.memory_bytes:
        there = size_text(SHARE_OF_DEVICE * device.memory_bytes)
        return f"it needs {size_text(need)} of memory, and a run may take {there} of this device"
    left = ends - time.monotonic()
    step = spec.model.size(spec.seq_len).flops_per_token * spec.batch_tokens / product_flops_per_s
    least = (FIRST_STEPS + 2) * step + (COMPILE_S if device.compile_mode(spec.compile) != "off" else 0.0)
    if least > left:
        return f"it takes at least {duration(least)}, and {duration(max(left, 0.0))} of the limit are left"
    return ""


def matmul_flops_per_s(device: Device, dtype: torch.dtype) -> float:
    """Return the FLOP/s of a square matrix product, the fastest of those that fit into PRODUCT_S."""
    n = PRODUCT_SIZES[device.torch.type]
    a = torch.ones(n, n, dtype=dtype, device=device.torch)
    fastest, begun = float("inf"), time.perf_counter()
    while fastest == float("inf") or time.perf_counter() - begun < PRODUCT_S:
        device.synchronize()
        start = time.perf_counter()
        torch.mm(a, a)
        device.synchronize()
        fastest = min(fastest, time.perf_counter() - start)
    return 2 * n**3 / fastest


def reset_peak_memory(device: Device) -> bool:
    """Begin to look for the peak of memory from now on; return whether that is possible here."""
    if device.torch.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return True
    try:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak of the resident size
    except OSError:
        return False
    return True


def peak_memory(device: Device) -> int | None:
    """Return the most memory since the reset, bytes; None where the system does not say."""
    if device.torch.type == "cuda":
        return torch.cuda.max_memory_allocated()
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return 1024 * int(fields["VmHWM"].split()[0]) if "VmHWM" in fields else None
