"""Validation loss on a fixed set of tokens.

Not here: which tokens they are (data/stream.py), named evaluation sets (the evals room).
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

ROWS_LOGITS = 2**22
"""Logits held at once, as a count: 16 MiB in fp32."""


def validation_loss(
    network: Callable[[Tensor], Tensor], windows: np.ndarray, device: torch.device, vocab_size: int
) -> tuple[float, float]:
    """Mean loss in nats per token, and its standard error over windows.

    Args:
        network: Gives logits for tokens.
        windows: Fixed validation tokens, shape (n, seq_len + 1).
        device: Where the network is.
        vocab_size: Decides how many windows go through at once.

    The standard error says how well these windows stand for their source. It is shared by
    every run that is measured on them, so it is not the noise between two runs.
    """
    return summary(window_losses(network, windows, device, vocab_size))


def window_losses(
    network: Callable[[Tensor], Tensor], windows: np.ndarray, device: torch.device, vocab_size: int
) -> Tensor:
    """Mean loss of each window, nats per token, fp64 on the CPU, shape (n,)."""
    at_once = max(1, ROWS_LOGITS // (vocab_size * (windows.shape[1] - 1)))
    sums = []
    with torch.no_grad():
        for start in range(0, len(windows), at_once):
            tokens = torch.from_numpy(windows[start : start + at_once]).to(device)
            logits = network(tokens[:, :-1]).float().flatten(0, 1)
            losses = nn.functional.cross_entropy(
                logits, tokens[:, 1:].reshape(-1), reduction="none"
            )
            sums.append(losses.view(len(tokens), -1).mean(1, dtype=torch.float64).cpu())
    return torch.cat(sums)


def summary(means: Tensor) -> tuple[float, float]:
    """Mean of the windows' losses, and its standard error."""
    n = len(means)
    return float(means.mean()), float(means.std()) / math.sqrt(n) if n > 1 else math.nan
