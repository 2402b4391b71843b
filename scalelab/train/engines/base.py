"""What the loop asks of whoever holds the weights: one process, or many together.

Every call is made by all processes of a run, in the same order. What `agree` returns is the same in
each of them, so that all decide alike.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Agreed:
    """What all processes know of a step before its update; the same in each of them."""

    loss: float
    """Mean loss of the whole batch, nats per token."""
    norm: float
    """Norm of the whole gradient."""
    flags: tuple[bool, ...]
    """Whether any process raised each flag."""
    own_seconds: list[float]
    """What each process gave, by rank, seconds."""


class Engine(Protocol):
    """A network with its optimizer, wherever it lies."""

    @property
    def share(self) -> tuple[int, int]:
        """Which part of every batch this process reads, and of how many."""

    @property
    def is_first(self) -> bool:
        """Whether this process writes what is written once."""

    @property
    def micro_rows(self) -> int:
        """Windows that a process works on at once."""

    @property
    def updates(self) -> int:
        """Updates made so far."""

    def gradient(self, batch: Tensor) -> Tensor:
        """Gradient of this process's part of the batch, kept inside; its mean loss."""

    def norm(self) -> Tensor:
        """Norm of the whole gradient."""

    def update(self, factor: float, norm: Tensor) -> None:
        """One update at `factor` of the peak rates, the gradient clipped, then cleared."""

    def zero_grad(self) -> None:
        """Clear every gradient."""

    def agree(self, loss: Tensor, norm: Tensor, *flags: bool, own_seconds: float = 0.0) -> Agreed:
        """Exchange what decides about a step, in one collective operation and one wait for the device.

        Args:
            loss: What `gradient` returned.
            norm: What `norm` returned.
            flags: Flags of this process.
            own_seconds: What the method of this name returned; 0 where it was not asked.
        """

    def observed(self) -> dict[str, float]:
        """Numbers of the network's training passes since the last call, by name (Network.observed)."""

    def own_seconds(self) -> float:
        """Seconds that this process's device takes for the same work as every other's; waits for it."""

    def set_timeout(self, seconds: float) -> None:
        """How long the processes wait for one another from now on."""

    def validate(self, windows: np.ndarray) -> tuple[float, float]:
        """Validation loss and its standard error over windows, nats per token."""

    def state(self) -> dict[str, Tensor]:
        """Weights and the optimizer's state by names that no layout changes: views, to fill too."""

    def restored(self, updates: int) -> None:
        """To be called once state() has been filled: so many updates are made."""

    def weights(self) -> dict[str, Tensor]:
        """The whole model's fp32 weights by name in the first process; nothing in the others."""
