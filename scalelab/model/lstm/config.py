"""An LSTM language model, described: dimensions, counts, costs. No torch.

An embedding, LSTM layers of one width, and an output head, tied to the embedding or not. Each window of
`seq_len` tokens begins with a state of zeros, and gradients go back to its beginning: backpropagation is
truncated to the context.

    layer   8 * units^2 + 8 * units     input and recurrent matrices of 4 gates, two biases
    FLOPs   6 * n_params_matmul - 8 * layers * units^2 / seq_len

The FLOPs that are left out: the state that a window begins with is the output of no token, so no gradient
goes back to it. There is no term that grows with the context.

Source: Hochreiter & Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735; gates as in torch.nn.LSTM.
Not here: the weights (network.py).
"""

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

from scalelab.config import Count, Switch
from scalelab.model.base import Architecture, Blocks, Family, ModelSize


class LstmFamily(Family):
    """A shape rule: LSTMs of one depth, one for each multiple of a width."""

    closer: ClassVar[str] = "make width_step smaller"
    kind: Literal["lstm"] = "lstm"
    layers: Count = 2
    """Layers one on the other, at every size."""
    width_step: Count = 8
    """Step of the width from one size to the next, numbers."""
    tied: Switch = False
    """Whether the output head is the embedding."""

    def members(self, vocab_size: int) -> Iterator["Lstm"]:
        """See Family."""
        width = 0
        while True:
            width += self.width_step
            yield Lstm(layers=self.layers, units=width, vocab_size=vocab_size, tied=self.tied)


class Lstm(Architecture):
    """One LSTM, every dimension decided."""

    family: ClassVar[type[Family]] = LstmFamily
    parts: ClassVar[Mapping[str, str]] = {
        "network": "scalelab.model.lstm.network:LstmNet",
        "generate": "scalelab.model.lstm.generate:StateReader",
    }
    has_chunked_loss: ClassVar[bool] = True

    kind: Literal["lstm"] = "lstm"
    layers: Count
    units: Count
    """Width of the embedding, and of every layer's state."""
    vocab_size: Count
    tied: Switch = False
    """Whether the output head is the embedding."""

    def size(self, seq_len: int) -> ModelSize:
        """See Architecture."""
        found, matrices = self.blocks(), self.layers * 8 * self.units**2
        within = found.n * found.params_whole
        matmul = matrices + found.vocabulary
        total = within + found.vocabulary * (1 if self.tied else 2)
        return ModelSize(
            n_params_total=total,
            n_params_non_embedding=within,
            n_params_matmul=matmul,
            n_params_active=total,
            flops_per_token=6.0 * matmul - matrices / seq_len,
        )

    def blocks(self) -> Blocks:
        """See Architecture. A token leaves its input, 4 gates, 2 of the cell and its output."""
        return Blocks(
            n=self.layers,
            width=self.units,
            vocabulary=self.vocab_size * self.units,
            tied=self.tied,
            params_whole=8 * self.units**2 + 8 * self.units,
            numbers_whole=8 * self.units,
        )

    def words(self) -> str:
        """See Architecture."""
        return f"{self.layers} LSTM layers x {self.units}, vocabulary {self.vocab_size:,}"
