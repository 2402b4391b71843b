"""How much memory a run needs, and so how much of a batch goes through at once.

Estimates, on the high side. A run that meets its device's limit all the same goes on with
half the micro-batch (loop.py).

    state        master weight and gradient in fp32, 8 bytes per parameter; 12 with working
                 ones in bf16 beside them (optimizers/flat.py); and the optimizer's own state
    activations  what one token leaves behind in the blocks (model/) x tokens of the micro-batch
    loss         logits and what is computed from them (model/loss_memory.py): of all rows of the
                 micro-batch, or of a chunk of them, by the run's `cross_entropy`
    validation   the logits of at least one window, which may be more than activations and loss

Not here: layouts over many devices (plan/cost/memory.py).
"""

from scalelab.model.base import Architecture
from scalelab.model.loss_memory import chunk_rows, is_chunked, logits_bytes, loss_bytes
from scalelab.train.optimizers.base import Optimizer
from scalelab.train.spec import RunSpec

SHARE_OF_DEVICE = 0.8
"""Share of a device's memory that a run plans to use; the rest is for the allocator and kernels."""

CPU_MICRO_TOKENS = 16384
"""On the CPU larger micro-batches only leave the cache. Measured on two cores."""


def state_bytes(n_params: int, precision: str, optimizer: Optimizer) -> int:
    """Weights, gradients and the optimizer's state, bytes."""
    return n_params * (12 if precision == "bf16" else 8) + optimizer.state_bytes(n_params)


def loss_rows(
    model: Architecture,
    cross_entropy: str,
    n_rows: int,
    number_bytes: int,
    device_kind: str,
    memory_bytes: float | None,
) -> int | None:
    """Return the rows whose logits a loss holds at once; None: those of all rows of a micro-batch.

    auto is in chunks on a GPU where plain logits would take too much of its memory and chunks take less.

    Args:
        model: The whole model, its vocabulary not cut.
        cross_entropy: auto, plain or chunked, as in RunSpec.
        n_rows: Tokens of a micro-batch.
        number_bytes: Bytes of a working number: 4 in fp32, 2 in bf16.
        device_kind: Type of device: cpu or cuda.
        memory_bytes: Memory of the device; None: unknown, then auto is plain.
    """
    if cross_entropy == "plain" or not model.has_chunked_loss:
        return None
    vocab_size = model.vocab_size
    rows = chunk_rows(n_rows, vocab_size)
    if cross_entropy == "chunked":
        return rows
    if device_kind == "cpu" or not is_chunked(n_rows, vocab_size, number_bytes, memory_bytes):
        return None
    plain, chunked = (
        loss_bytes(n_rows, vocab_size, model.width(), number_bytes, held) for held in (None, rows)
    )
    return rows if chunked < plain else None


def run_bytes(
    spec: RunSpec, precision: str, micro_rows: int, device_kind: str, memory_bytes: int | None
) -> int:
    """Return the memory of a whole run in one process, bytes.

    Args:
        spec: The run.
        precision: fp32 or bf16, of the working weights.
        micro_rows: Windows of a micro-batch.
        device_kind: Type of device: cpu or cuda.
        memory_bytes: Memory of the device, which decides how the loss is computed; None: unknown.
    """
    model, number, tokens = spec.model, 2 if precision == "bf16" else 4, micro_rows * spec.seq_len
    per_token = model.activation_bytes_per_token(number)
    state = state_bytes(model.size(spec.seq_len).n_params_total, precision, spec.optimizer)
    rows = loss_rows(model, spec.cross_entropy, tokens, number, device_kind, memory_bytes)
    training = per_token * tokens + loss_bytes(tokens, model.vocab_size, model.width(), number, rows)
    return state + max(training, logits_bytes(spec.seq_len, model.vocab_size, number))


def first_micro_rows(spec: RunSpec, device_kind: str, memory_bytes: int | None, precision: str) -> int:
    """Windows of the first micro-batch: all of the batch, halved until the run should fit.

    Args:
        spec: The run.
        device_kind: Type of device: cpu or cuda.
        memory_bytes: Memory of the device, not used on the CPU. None: unknown, then one window at a time.
        precision: fp32 or bf16.
    """
    rows = spec.batch_tokens // spec.seq_len
    while rows > 1:
        if device_kind == "cpu":
            fits = rows * spec.seq_len <= CPU_MICRO_TOKENS
        else:
            needed = run_bytes(spec, precision, rows, device_kind, memory_bytes)
            fits = needed <= SHARE_OF_DEVICE * (memory_bytes or 0)
        if fits:
            break
        rows = -(-rows // 2)
    return rows


def run_memory(spec: RunSpec, kind: str, there: int | None, auto: str) -> int:
    """Return the bytes that a run needs on a device.

    Args:
        spec: The run.
        kind: Type of device: cpu or cuda.
        there: Memory of the device, bytes; None: unknown.
        auto: Precision on the device where the run leaves the choice to it: fp32 or bf16.
    """
    precision = auto if spec.precision == "auto" else spec.precision
    return run_bytes(spec, precision, first_micro_rows(spec, kind, there, precision), kind, there)
