"""What the loop asks of whoever holds the weights: one process, or many together.

Every call is made by all processes of a run, in the same order. What `gradient` and `agree` say
is the same in each of them, so that all decide alike.
"""

from typing import Protocol

import numpy as np
from torch import Tensor


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

    def forget_gradient(self) -> None:
        """Clear every gradient."""

    def agree(self, loss: Tensor, *flags: bool) -> tuple[float, tuple[bool, ...]]:
        """The whole batch's loss, and whether any process raised each flag."""

    def own_seconds(self) -> list[float]:
        """How long every process takes for the same small piece of work, by rank."""

    def validate(self, windows: np.ndarray) -> tuple[float, float]:
        """Validation loss and its standard error over windows, nats per token."""

    def state(self) -> dict[str, Tensor]:
        """Weights and the optimizer's state by names that no layout changes: views, to fill too."""

    def restored(self, updates: int) -> None:
        """To be called once state() has been filled: so many updates are made."""

    def weights(self) -> dict[str, Tensor]:
        """The whole model's fp32 weights by name."""
