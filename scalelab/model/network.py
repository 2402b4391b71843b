"""What the torch module of every architecture offers to training, evaluation and post-training.

Shapes: B batch, T time, V vocabulary, C width.
Not here: the modules (network.py of each architecture).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Literal

from torch import Tensor, nn

from scalelab.model.base import Architecture, Kind

AttentionKernel = Literal["sdpa", "flash3"]
"""sdpa: torch chooses, which on most GPUs is FlashAttention-2. flash3: FlashAttention-3."""
MatmulKernel = Literal["plain", "fp8"]
"""plain: products of the dtype of their factors. fp8: factors rounded to fp8 (fp8.py)."""


class Network(nn.Module, ABC):
    """Tokens in, logits or a loss out. A token sees only itself and what came before it."""

    config: Architecture
    loss_rows: int | None = None
    """Rows whose logits a loss of `forward` holds at once; None: all of them."""
    attention_kernel: AttentionKernel = "sdpa"
    """Kernel of causal attention without segments."""
    matmul: MatmulKernel = "plain"
    """Products of the matrices between embedding and head."""

    @property
    def follows(self) -> frozenset[str]:
        """Which of `loss_rows`, `attention_kernel` and `matmul` it follows, by name; one that it does not stays."""
        return frozenset()

    def configure(
        self, loss_rows: int | None, attention_kernel: AttentionKernel, matmul: MatmulKernel = "plain"
    ) -> None:
        """Choose how it computes, before it is compiled. Another choice changes rounding, no more.

        Args:
            loss_rows: Rows whose logits a loss holds at once; None: all of them.
            attention_kernel: sdpa or flash3.
            matmul: plain or fp8, which rounds to 3 bits of mantissa.
        """
        self.loss_rows, self.attention_kernel, self.matmul = loss_rows, attention_kernel, matmul

    @abstractmethod
    def reset(self, seed: int) -> None:
        """Set starting values, decided by `seed` alone whatever the device."""

    @abstractmethod
    def kinds(self) -> dict[str, Kind]:
        """What each named parameter is."""

    def sign_steps(self) -> dict[str, float]:
        """Parameters that no optimizer trains, by name, with their steps.

        After each update such a parameter moves by its step against the sign of its gradient, whatever the
        schedule. Its gradient is neither clipped nor part of the norm.
        """
        return {}

    def observed(self) -> dict[str, float]:
        """Numbers of the training passes since the last call, by name, for the log of a run. In a layout over several
        processes they are those of the caller's own part of the batch and of the model.
        """
        return {}

    def exact_names(self) -> tuple[str, ...]:
        """Parameters that it computes with in fp32 while the others are in another precision, by name."""
        return ()

    def keep_exact(self, values: Mapping[str, Tensor]) -> None:
        """Compute with these fp32 values of the parameters of `exact_names` from now on.

        Gradients still go to the parameters. Whoever changes a parameter changes its value here too.

        Args:
            values: By name, in the shapes of the parameters, on their device.
        """
        raise NotImplementedError

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

    def activations(self, tokens_BT: Tensor) -> dict[str, Tensor]:
        """What the network computes on its way, by name, in order: the output of each block where it has blocks,
        what the head would see where not, and "logits" last.
        """
        return {"hidden": self.hidden(tokens_BT), "logits": self(tokens_BT)}

    def compile_with(self, compiler: Callable[[Callable], Callable], whole: bool) -> None:
        """Replace the functions that make good graphs by what `compiler` makes of them.

        By default the whole of `forward` is one graph. A function that is compiled must not change
        what the network holds: torch.compile would trace it again after each change.

        Args:
            compiler: Returns a function that computes the same.
            whole: Whether one graph is wanted, not one for equal blocks.
        """
        del whole
        self.forward = compiler(self.forward)

    def adaptable(self) -> dict[str, nn.Parameter]:
        """Matrices that can be replaced by a function of them (`adapt`), by name."""
        return {}

    def adapt(self, change: Callable[[Tensor], Tensor]) -> None:
        """Compute with change(weight) instead of each weight in `adaptable` from now on."""
        raise NotImplementedError

    def used(self, weight: Tensor) -> Tensor:
        """A weight as the network computes with it."""
        return weight
