"""What the torch module of every architecture offers to training, evaluation and post-training.

Shapes: B batch, T time, V vocabulary, C width.
Not here: the modules (network.py of each architecture).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn

from scalelab.model.base import Architecture, Kind


class Network(nn.Module, ABC):
    """Tokens in, logits or a loss out. A token sees only itself and what came before it."""

    config: Architecture

    @abstractmethod
    def reset(self, seed: int) -> None:
        """Set starting values, decided by `seed` alone whatever the device."""

    @abstractmethod
    def kinds(self) -> dict[str, Kind]:
        """What each named parameter is."""

    @abstractmethod
    def forward(
        self, x: Tensor, targets_BT: Tensor | None = None, segments_BT: Tensor | None = None
    ) -> Tensor:
        """Logits of shape (B, T, V); with targets, their mean loss in nats per token.

        Args:
            x: Tokens of shape (B, T).
            targets_BT: The tokens to predict.
            segments_BT: Whose each token is: none sees those of another. None: all are one's.
        """

    @abstractmethod
    def hidden(self, tokens_BT: Tensor) -> Tensor:
        """What the head would see, shape (B, T, C)."""

    def adaptable(self) -> dict[str, nn.Parameter]:
        """Matrices that can be replaced by a function of them (`adapt`), by name."""
        return {}

    def adapt(self, change: Callable[[Tensor], Tensor]) -> None:
        """Compute with change(weight) instead of each weight in `adaptable` from now on."""
        raise NotImplementedError

    def used(self, weight: Tensor) -> Tensor:
        """A weight as the network computes with it."""
        return weight
