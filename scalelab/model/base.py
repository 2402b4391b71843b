"""What every architecture tells about itself before any weight exists.

Not here: what one architecture's numbers are (transformer.py), how a target size becomes
dimensions (sizing.py).
"""

from dataclasses import dataclass
from typing import Literal, Protocol

Kind = Literal["matrix", "embedding", "head", "vector"]
"""What a weight is, which decides its learning rate, its decay and its starting values."""


@dataclass(frozen=True)
class ModelSize:
    """Every parameter count of a model, and its cost.

    A count without its name is worthless: published exponents differ mostly because one
    paper's N leaves out what another's includes (Pearce & Song 2024, arXiv:2406.12907).
    """

    n_params_total: int
    """Every parameter, each once."""
    n_params_non_embedding: int
    """Without the input embedding and the output head (Kaplan et al. 2020)."""
    n_params_matmul: int
    """Weights that multiply tokens: the blocks' matrices and the output head, tied or not."""
    n_params_active: int
    """Parameters that one token uses. Equal to the total in a dense model."""
    flops_per_token: float
    """Training, forward and backward: matmuls, attention in full, head. See flops.py."""

    def count(self, param_count: str) -> int:
        """One of the four counts by its short name ("matmul")."""
        return getattr(self, f"n_params_{param_count}")


class Architecture(Protocol):
    """One concrete model, described. Configs registered in ARCHITECTURES satisfy this."""

    vocab_size: int

    def size(self, seq_len: int) -> ModelSize:
        """Counts, and cost per token at a context of `seq_len` tokens."""

    def activation_bytes_per_token(self, bytes_per_number: int) -> int:
        """What one token leaves behind for the backward pass, in bytes, at most."""
