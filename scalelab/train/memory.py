"""How much memory a run needs, and so how much of a batch goes through at once.

Estimates, on the high side. A run that meets its device's limit all the same goes on with
half the micro-batch (loop.py).

    state        master weight and gradient in fp32, 8 bytes per parameter; 12 with working
                 ones in bf16 beside them (optimizers/flat.py); and the optimizer's own state
    activations  what one token leaves behind (model room) x tokens of the micro-batch

Not here: layouts over many devices (the plan room).
"""

from scalelab.train.optimizers.base import Optimizer
from scalelab.train.spec import RunSpec

SHARE_OF_DEVICE = 0.8
"""Of a device's memory that a run plans to use; the rest is for the allocator and kernels."""

CPU_MICRO_TOKENS = 16384
"""On the CPU larger micro-batches only leave the cache. Measured on two cores."""


def state_bytes(n_params: int, precision: str, optimizer: Optimizer) -> int:
    """Weights, gradients and the optimizer's state, bytes."""
    return n_params * (12 if precision == "bf16" else 8) + optimizer.state_bytes(n_params)


def run_bytes(spec: RunSpec, precision: str, micro_rows: int) -> int:
    """Memory of a whole run at a micro-batch of `micro_rows` windows, bytes."""
    per_token = spec.model.activation_bytes_per_token(2 if precision == "bf16" else 4)
    total = spec.model.size(spec.seq_len).n_params_total
    return state_bytes(total, precision, spec.optimizer) + per_token * micro_rows * spec.seq_len


def first_micro_rows(
    spec: RunSpec, device_kind: str, memory_bytes: int | None, precision: str
) -> int:
    """Windows of the first micro-batch: all of the batch, halved until the run should fit."""
    rows = spec.batch_tokens // spec.seq_len
    while rows > 1:
        if device_kind == "cpu":
            fits = rows * spec.seq_len <= CPU_MICRO_TOKENS
        else:
            fits = run_bytes(spec, precision, rows) <= SHARE_OF_DEVICE * (memory_bytes or 0)
        if fits:
            break
        rows = -(-rows // 2)
    return rows
