"""Validation loss on a fixed set of tokens.

Not here: which tokens they are (data/corpus/stream.py), named evaluation sets (the evals room).
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

ROWS_LOGITS = 2**22
"""Logits held at once on a CPU, as a count: 16 MiB in fp32."""
GPU_LOGITS = 2**28
"""Logits held at once elsewhere, as a count: 1 GiB in fp32."""


def mean_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean loss of each row in nats per token, computed in fp32 and summed in fp64, shape (B,).

    Args:
        logits: Shape (B, T, V).
        targets: Tokens to predict, shape (B, T).
    """
    logits = logits.float().flatten(0, 1)
    losses = nn.functional.cross_entropy(logits, targets.reshape(-1), reduction="none")
    return losses.view(len(targets), -1).mean(1, dtype=torch.float64)


def validation_loss(
    network: Callable[[Tensor], Tensor],
    windows: np.ndarray,
    device: torch.device,
    vocab_size: int,
    rows: int | None = None,
    losses: Callable[[Tensor, Tensor], Tensor] = mean_losses,
) -> tuple[float, float]:
    """Mean loss in nats per token, and its standard error over windows.

    Args:
        network: Gives logits for tokens.
        windows: Fixed validation tokens, shape (n, seq_len + 1).
        device: Where the network is.
        vocab_size: Size of the vocabulary.
        rows: See window_losses.
        losses: See window_losses.

    The standard error says how well these windows stand for their source. It is shared by
    every run that is measured on them, so it is not the noise between two runs.
    """
    return summary(window_losses(network, windows, device, vocab_size, rows, losses))


def window_losses(
    network: Callable[[Tensor], Tensor],
    windows: np.ndarray,
    device: torch.device,
    vocab_size: int,
    rows: int | None = None,
    losses: Callable[[Tensor, Tensor], Tensor] = mean_losses,
) -> Tensor:
    """Mean loss of each window, nats per token, fp64 on the CPU, shape (n,).

    Args:
        network: Returns logits of shape (B, T, V) for tokens of shape (B, T).
        windows: Tokens, shape (n, T + 1).
        device: Device of the network.
        vocab_size: Size of the vocabulary, V.
        rows: Windows of every pass: the last pass is filled up with windows from the start, so that
            all have one shape. None: as many as fit into a fixed number of logits, the last pass fewer.
        losses: Mean loss of each row for logits and targets; mean_losses, or that function compiled.
    """
    n = len(windows)
    if rows is None:
        most = ROWS_LOGITS if device.type == "cpu" else GPU_LOGITS
        rows = max(1, most // (vocab_size * (windows.shape[1] - 1)))
    else:
        windows = windows[np.arange(-(-n // rows) * rows) % n]
    means = []
    with torch.no_grad():
        every = torch.from_numpy(windows).to(device)
        for tokens in every.split(rows):
            means.append(losses(network(tokens[:, :-1]), tokens[:, 1:]))
    return torch.cat(means)[:n].cpu()


def summary(means: Tensor) -> tuple[float, float]:
    """Mean of the windows' losses, and its standard error."""
    n = len(means)
    return float(means.mean()), float(means.std()) / math.sqrt(n) if n > 1 else math.nan
