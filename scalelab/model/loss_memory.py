"""Bytes of the head and its loss, plain and in chunks, and the rows of a chunk. No torch.

Bytes at the peak, with R rows, V vocabulary, C width, b bytes a number, chunks of r rows:

    plain     R V (4 + 4)               fp32: logits, then their log-softmax and its gradient
              R V (2 + 4 + 4)           bf16: logits, a copy in fp32, its log-softmax
    chunked   r V (the same) + R C b + V C (4 + b)

Kept from the forward to the backward pass: 4 R V without chunks, R C b + 4 V C with them. On a CPU
plain is less: the gradient takes the place of the logits (kernels.py).

Symbols: R rows (tokens of a micro-batch), V vocabulary, C width, b bytes of a working number.
Measured on a CPU (tests/model/test_linear_loss.py), without kernels' workspaces. Not here: the loss
(linear_loss.py), which runs compute it in chunks (train/memory.py).
"""

CHUNK_LOGITS = 2**27
"""Logits of a chunk, as a count: 512 MiB in fp32. 4096 rows of 32,768 still fill a large GPU."""
MOST_CHUNKS = 64
"""Chunks of one loss at most, so that many small kernels do not take longer than their products."""
SHARE_OF_MEMORY = 1 / 16
"""Share of a device's memory that plain logits may take before they are computed in chunks."""


def chunk_rows(n_rows: int, vocab_size: int) -> int:
    """Return the rows of a chunk: CHUNK_LOGITS at once, in no more than MOST_CHUNKS chunks.

    Args:
        n_rows: Rows of the loss, tokens.
        vocab_size: Size of the vocabulary.
    """
    return max(1, CHUNK_LOGITS // vocab_size, -(-n_rows // MOST_CHUNKS))


def logits_bytes(n_rows: int, vocab_size: int, number_bytes: int) -> int:
    """Return the bytes that plain logits take at the peak, with what is computed from them.

    Args:
        n_rows: Rows of the loss, tokens.
        vocab_size: Size of the vocabulary.
        number_bytes: Bytes of a number of the working weights: 4 in fp32, 2 in bf16.
    """
    return n_rows * vocab_size * (8 if number_bytes == 4 else number_bytes + 8)


def loss_bytes(n_rows: int, vocab_size: int, width: int, number_bytes: int, rows: int | None) -> int:
    """Return the bytes that the head and its loss take at the peak, beside its weight and its gradient.

    Args:
        n_rows: Rows of the loss, tokens of a micro-batch.
        vocab_size: Size of the vocabulary.
        width: Numbers that the head sees of a token.
        number_bytes: Bytes of a number of the working weights: 4 in fp32, 2 in bf16.
        rows: Rows of a chunk; None without chunks.
    """
    if rows is None:
        return logits_bytes(n_rows, vocab_size, number_bytes)
    sums = vocab_size * width * (4 + number_bytes)
    return logits_bytes(min(rows, n_rows), vocab_size, number_bytes) + n_rows * width * number_bytes + sums


def is_chunked(n_rows: int, vocab_size: int, number_bytes: int, memory_bytes: float | None) -> bool:
    """Return whether plain logits take too much memory to be the default.

    Args:
        n_rows: Rows of the loss, tokens of a micro-batch.
        vocab_size: Size of the vocabulary.
        number_bytes: Bytes of a number of the working weights: 4 in fp32, 2 in bf16.
        memory_bytes: Memory of the device; None: unknown, then nothing is chunked.
    """
    most = SHARE_OF_MEMORY * (memory_bytes or float("inf"))
    return logits_bytes(n_rows, vocab_size, number_bytes) > most
