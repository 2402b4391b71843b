"""An LSTM language model: embedding, LSTM layers of one width, output head. One process.

    layer   8 * width^2 + 8 * width     input and recurrent matrices of 4 gates, two biases
    FLOPs   6 * n_params_matmul - 8 * layers * width^2 / seq_len

The FLOPs that are left out: the state that a window begins with is no one's output, so no
gradient goes back to it.

Source: Hochreiter & Schmidhuber 1997; gates as in torch.nn.LSTM.
"""

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, embedding, linear
from torch.nn.utils.rnn import pad_sequence

from scalelab.config import Count
from scalelab.model.base import Architecture, Blocks, Family, Kind, ModelSize
from scalelab.model.network import Network


class LstmFamily(Family):
    """LSTMs of one depth, every multiple of a width."""

    closer: ClassVar[str] = "make width_step smaller"
    kind: Literal["lstm"] = "lstm"
    layers: Count = 2
    width_step: Count = 8

    def members(self, vocab_size: int) -> Iterator["Lstm"]:
        """See Family."""
        width = 0
        while True:
            width += self.width_step
            yield Lstm(layers=self.layers, units=width, vocab_size=vocab_size)


class Lstm(Architecture):
    """One LSTM."""

    family: ClassVar[type[Family]] = LstmFamily
    parts: ClassVar[Mapping[str, str]] = {"network": "scalelab_examples.lstm:LstmNet"}
    kind: Literal["lstm"] = "lstm"
    layers: Count
    units: Count
    vocab_size: Count

    def size(self, seq_len: int) -> ModelSize:
        """See Architecture."""
        found, matrices = self.blocks(), 8 * self.units**2
        within = found.n * found.params_whole
        matmul = self.layers * matrices + found.vocabulary
        return ModelSize(
            n_params_total=within + 2 * found.vocabulary,
            n_params_non_embedding=within,
            n_params_matmul=matmul,
            n_params_active=within + 2 * found.vocabulary,
            flops_per_token=6.0 * matmul - self.layers * matrices / seq_len,
        )

    def blocks(self) -> Blocks:
        """See Architecture. A token leaves its input, 4 gates, 2 of the cell and its output."""
        return Blocks(
            n=self.layers,
            width=self.units,
            vocabulary=self.vocab_size * self.units,
            tied=False,
            params_whole=8 * self.units**2 + 8 * self.units,
            numbers_whole=8 * self.units,
        )

    def words(self) -> str:
        """See Architecture."""
        return f"{self.layers} LSTM layers x {self.units}, vocabulary {self.vocab_size:,}"


class LstmNet(Network):
    """The torch module. Shapes: B batch, T time, S segments, C width, V vocabulary."""

    def __init__(self, config: Lstm):
        super().__init__()
        self.config = config
        self.embedding = nn.Parameter(torch.empty(config.vocab_size, config.units))
        self.layers = nn.LSTM(config.units, config.units, config.layers, batch_first=True)
        self.head = nn.Parameter(torch.empty(config.vocab_size, config.units))

    def reset(self, seed: int) -> None:
        """See Network: matrices by their fan-in, the head and biases zero, forget gates open."""
        generator, width = torch.Generator().manual_seed(seed), self.config.units
        with torch.no_grad():
            for name, weight in self.named_parameters():
                kind = self.kinds()[name]
                if kind in {"matrix", "embedding"}:
                    weight.copy_(torch.randn(weight.shape, generator=generator) / width**0.5)
                else:
                    weight.zero_()
                if ".bias_ih" in name:
                    weight[width : 2 * width] = 1.0

    def kinds(self) -> dict[str, Kind]:
        """See Network."""
        return {name: _kind(name) for name, _ in self.named_parameters()}

    def forward(
        self, x: Tensor, targets_BT: Tensor | None = None, segments_BT: Tensor | None = None
    ) -> Tensor:
        """See Network."""
        hidden = self.hidden(x) if segments_BT is None else self._apart(x, segments_BT)
        logits = linear(hidden, self.head)
        if targets_BT is None:
            return logits
        return cross_entropy(logits.flatten(0, 1).float(), targets_BT.reshape(-1))

    def hidden(self, tokens_BT: Tensor) -> Tensor:
        """See Network."""
        return self.layers(embedding(tokens_BT, self.embedding))[0]

    def _apart(self, tokens_BT: Tensor, segments_BT: Tensor) -> Tensor:
        """As `hidden`, every segment from the beginning: each in a row of its own."""
        begins = torch.ones_like(segments_BT, dtype=torch.bool)
        begins[:, 1:] = segments_BT[:, 1:] != segments_BT[:, :-1]
        starts = begins.flatten().nonzero().flatten().tolist()
        ends = [*starts[1:], tokens_BT.numel()]
        lengths = [end - start for start, end in zip(starts, ends, strict=True)]
        rows_ST = pad_sequence(tokens_BT.flatten().split(lengths), batch_first=True)
        hidden = self.hidden(rows_ST)
        real = [row[:length] for row, length in zip(hidden, lengths, strict=True)]
        return torch.cat(real).view(*tokens_BT.shape, -1)


def _kind(name: str) -> Kind:
    if name in {"embedding", "head"}:
        return name
    return "vector" if ".bias" in name else "matrix"
