"""How fast a run would go here: a few of its steps, timed, for a plan's estimate.

Tokens are random, so no corpus is needed. An estimate is not a measurement of the run: other
runs beside it, evaluation and checkpoints come on top.
"""

import statistics
import time

import torch

from scalelab.config import parse_yaml
from scalelab.train.device import find_device
from scalelab.train.memory import first_micro_rows
from scalelab.train.optimizers.flat import FlatOptimizer
from scalelab.train.spec import RunSpec

WARMUP_STEPS, TIMED_STEPS = 2, 5


def seconds_per_token(specs: list[str]) -> list[float]:
    """Seconds of training per token for each spec (as YAML text), median of a few steps."""
    return [_time(RunSpec.parse(parse_yaml(text, "spec"))) for text in specs]


def _time(spec: RunSpec) -> float:
    device = find_device()
    precision = device.precision(spec.precision)
    network = spec.model.network()
    network.reset(spec.seed)
    network.to(device.torch)
    working = torch.bfloat16 if precision == "bf16" else torch.float32
    optimizer = FlatOptimizer(network, network.kinds(), spec.optimizer, working)
    forward = torch.compile(network) if device.kind == "cuda" else network
    rows = first_micro_rows(spec, device.kind, device.memory_bytes, precision)
    shape = (rows, spec.seq_len + 1)
    tokens = torch.randint(spec.model.vocab_size, shape, device=device.torch)
    seconds = []
    for _ in range(WARMUP_STEPS + TIMED_STEPS):
        begun = time.perf_counter()
        forward(tokens[:, :-1], tokens[:, 1:]).backward()
        optimizer.gather()
        float(optimizer.step(1e-6))
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds[WARMUP_STEPS:]) / (rows * spec.seq_len)
