"""A trunk that says one number: reward models, critics; and rows of tokens as one tensor.

Shapes: B rows, T positions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scalelab.model.base import Kind
from scalelab.model.network import Network


class ScalarNet(nn.Module):
    """A trunk with one number for each position, zero everywhere before training."""

    def __init__(self, trunk: Network):
        super().__init__()
        self.trunk = trunk
        for name, kind in trunk.kinds().items():
            if kind == "head":
                owner, _, leaf = name.rpartition(".")
                delattr(trunk.get_submodule(owner), leaf)
        device = next(trunk.parameters()).device
        self.score = nn.Parameter(torch.zeros(trunk.config.width(), device=device))

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """One number for each position, fp32, shape (B, T)."""
        return (self.trunk.hidden(tokens_BT) @ self.score).float()

    def sign_steps(self) -> dict[str, float]:
        """See Network."""
        return {f"trunk.{name}": step for name, step in self.trunk.sign_steps().items()}

    def kinds(self) -> dict[str, Kind]:
        """What each named parameter is."""
        return {f"trunk.{n}": kind for n, kind in self.trunk.kinds().items()} | {"score": "head"}


def padded(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows padded on the right to one length, and 1 where a token is real; shape (B, T) both."""
    longest = max(map(len, rows))
    tokens = torch.full((len(rows), longest), pad, dtype=torch.long)
    mask = torch.zeros((len(rows), longest))
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = torch.as_tensor(row)
        mask[i, : len(row)] = 1
    return tokens.to(device), mask.to(device)
