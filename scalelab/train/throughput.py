"""How fast a run would go here: a few of its steps, timed, for a plan's estimate.

Tokens are random, so no corpus is needed. An estimate is not a measurement of the run: other
runs beside it, evaluation and checkpoints come on top.

Before a model is built, its least time and its memory are compared with what there is: a step of a
model of billions of parameters takes minutes on a CPU, and setting its weights alone takes longer
than anyone waits for an estimate.
"""

import os
import statistics
import time

import torch

from scalelab.config import parse_yaml
from scalelab.hardware.device import Device, find_device
from scalelab.train.engines.compilation import compile_network, usable_mode
from scalelab.train.engines.settings import configure_network, uses_cuda_graphs
from scalelab.train.memory import SHARE_OF_DEVICE, first_micro_rows, run_bytes
from scalelab.train.optimizers.flat import FlatOptimizer
from scalelab.train.spec import RunSpec
from scalelab.train.step_clock import FIRST_STEPS
from scalelab.units import duration, size_text

WARMUP_STEPS, TIMED_STEPS = FIRST_STEPS, 5
SETUP_S_PER_PARAM = 2e-8
"""Seconds to draw one weight on a CPU core; 3e-8 were measured."""
SHARE_OF_PRODUCT = 0.25
"""Share of a matrix product's FLOPs per second that a training step is expected to reach."""
PRODUCT_ROWS = 512
"""Size of the square matrices whose product shows how many FLOPs a second there can be."""


def seconds_per_token(text: str, limit_s: float) -> tuple[float | None, str]:
    """Return the seconds of training per token, the median of a few steps, or why there are none.

    Args:
        text: The run, as the YAML text of its RunSpec.
        limit_s: Time limit, seconds. Fewer steps are timed where all do not fit into it.

    Returns: Seconds per token and ""; or None and the reason.
    """
    ends = time.perf_counter() + limit_s
    spec, device = RunSpec.parse(parse_yaml(text, "spec")), find_device()
    precision = device.precision(spec.precision)
    rows = first_micro_rows(spec, device.kind, device.memory_bytes, precision)
    few, reason = _rows_in_time(spec, device, precision, rows, limit_s)
    if reason:
        return None, reason
    network = spec.model.network()
    network.reset(spec.seed)
    network.to(device.torch)
    working = torch.bfloat16 if precision == "bf16" else torch.float32
    optimizer = FlatOptimizer(network, network.kinds(), spec.optimizer, working)
    configure_network(network, spec, device, precision, few)
    mode = usable_mode(device, spec.compile)
    graphs = uses_cuda_graphs(spec, device, mode, few)
    compile_network(network, mode, graphs)
    shape = (few, spec.seq_len + 1)
    tokens = torch.randint(spec.model.vocab_size, shape, device=device.torch)
    seconds: list[float] = []
    for _ in range(WARMUP_STEPS + TIMED_STEPS):
        begun = time.perf_counter()
        if seconds and begun + seconds[-1] * few / rows > ends:
            break
        if graphs:
            torch.compiler.cudagraph_mark_step_begin()
        network(tokens[:, :-1], tokens[:, 1:]).backward()
        between = time.perf_counter()
        optimizer.gather()
        float(optimizer.step(1e-6))
        # The update is that of the whole micro-batch; the rest is of the windows that were timed.
        seconds.append((between - begun) * rows / few + time.perf_counter() - between)
        if len(seconds) == 1 and device.kind != "cpu":
            ends += seconds[0]  # it is compiled
    if len(seconds) == 1 and device.kind != "cpu":
        return None, f"its first step, which compiles it, takes {duration(seconds[0])}"
    timed = seconds[min(WARMUP_STEPS, len(seconds) - 1) :]
    return statistics.median(timed) / (rows * spec.seq_len), ""


def _rows_in_time(
    spec: RunSpec, device: Device, precision: str, rows: int, limit_s: float
) -> tuple[int, str]:
    """Return how many windows of a micro-batch to time, or why not even one fits into time or memory."""
    need = run_bytes(spec, precision, rows, device.kind, device.memory_bytes)
    there = _free_bytes(device)
    if there is not None and need > SHARE_OF_DEVICE * there:
        return 0, f"it needs {size_text(need)} of memory, and {size_text(there)} are free"
    if device.kind != "cpu":
        return rows, ""
    size = spec.model.size(spec.seq_len)
    window = size.flops_per_token * spec.seq_len / _most_flops_per_s(precision)
    setup = SETUP_S_PER_PARAM * size.n_params_total
    if setup + 2 * window > limit_s:
        return 0, f"two steps take at least {duration(setup + 2 * window)}"
    fit = (limit_s - setup) / ((WARMUP_STEPS + TIMED_STEPS) * window / SHARE_OF_PRODUCT)
    return max(1, min(rows, int(fit))), ""


def _free_bytes(device: Device) -> int | None:
    """Return the memory that is free now, bytes; of a GPU all of it."""
    if device.kind != "cpu":
        return device.memory_bytes
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
        return 1024 * int(fields["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _most_flops_per_s(precision: str) -> float:
    """Return the FLOPs per second of a matrix product here, the fastest of a few."""
    number = torch.bfloat16 if precision == "bf16" else torch.float32
    a, fastest = torch.ones(PRODUCT_ROWS, PRODUCT_ROWS, dtype=number), float("inf")
    for _ in range(4):
        begun = time.perf_counter()
        torch.mm(a, a)
        fastest = min(fastest, time.perf_counter() - begun)
    return 2 * PRODUCT_ROWS**3 / fastest
