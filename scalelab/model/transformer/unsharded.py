"""Where a matrix lies: here, all of it. What a network asks of whoever cuts its matrices.

Not here: matrices that are cut over processes (sharding.py).
"""

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import embedding

from scalelab.model.kernels import cross_entropy


class Unsharded:
    """Every matrix is in one piece, so there is nothing to exchange."""

    compiles_loss: bool = True
    """Whether torch.compile can trace `loss` and `whole_logits`."""

    has_whole_head: bool = True
    """Whether `weight` of the head is all of it, so that a loss can be computed from it alone."""

    def weight(self, parameter: Tensor) -> Tensor:
        """The piece of a weight that is here."""
        return parameter

    def gain_of_heads(self, parameter: Tensor) -> Tensor:
        """A gain that every head has, whichever heads are here."""
        return parameter

    def enter(self, x: Tensor) -> Tensor:
        """What every process has, on its way into the pieces."""
        return x

    def leave(self, x: Tensor) -> Tensor:
        """What the pieces gave, summed."""
        return x

    def embed(self, tokens_R: Tensor, weight_VC: Tensor) -> Tensor:
        """The embedding of each token, shape (R, C)."""
        return embedding(tokens_R, weight_VC)

    def loss(self, logits_RV: Tensor, targets_R: Tensor, vocab_size: int) -> Tensor:
        """Mean loss in nats per token, a scalar."""
        del vocab_size
        return cross_entropy(logits_RV, targets_R)

    def whole_logits(self, logits_RV: Tensor, vocab_size: int) -> Tensor:
        """The logits of the whole vocabulary, shape (R, V)."""
        del vocab_size
        return logits_RV


UNSHARDED = Unsharded()


class Changed(Unsharded):
    """Every weight of a block is replaced by a function of it."""

    def __init__(self, change: Callable[[Tensor], Tensor]):
        self.change = change

    def weight(self, parameter: Tensor) -> Tensor:
        """The weight, changed."""
        return self.change(parameter)
