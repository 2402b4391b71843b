"""A GRU language model: embedding, GRU layers of one width, output head. One process.

    layer   6 * width^2 + 6 * width     input and recurrent matrices of 3 gates, two biases
    FLOPs   6 * n_params_matmul - 6 * layers * width^2 / seq_len

The FLOPs that are left out: the state that a window begins with is no one's output, so no
gradient goes back to it.

Source: Cho et al. 2014, arXiv:1406.1078; gates as in torch.nn.GRU.
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


class GruFamily(Family):
    """GRUs of one depth, every multiple of a width."""

    closer: ClassVar[str] = "make width_step smaller"
    kind: Literal["gru"] = "gru"
    layers: Count = 2
    width_step: Count = 8

    def members(self, vocab_size: int) -> Iterator["Gru"]:
        """See Family."""
        width = 0
        while True:
            width += self.width_step
            yield Gru(layers=self.layers, units=width, vocab_size=vocab_size)


class Gru(Architecture):
    """One GRU."""

    family: ClassVar[type[Family]] = GruFamily
    parts: ClassVar[Mapping[str, str]] = {"network": "scalelab_examples.gru:GruNet"}
    kind: Literal["gru"] = "gru"
    layers: Count
    units: Count
    vocab_size: Count

    def size(self, seq_len: int) -> ModelSize:
        """See Architecture."""
        found, matrices = self.blocks(), 6 * self.units**2
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
        """See Architecture. A token leaves its input, 3 gates, the candidate's recurrent part and its output."""
        return Blocks(
            n=self.layers,
            width=self.units,
            vocabulary=self.vocab_size * self.units,
            tied=False,
            params_whole=6 * self.units**2 + 6 * self.units,
            numbers_whole=6 * self.units,
        )

    def words(self) -> str:
        """See Architecture."""
        return f"{self.layers} GRU layers x {self.units}, vocabulary {self.vocab_size:,}"


class GruNet(Network):
    """The torch module. Shapes: B batch, T time, S segments, C width, V vocabulary."""

    def __init__(self, config: Gru):
        super().__init__()
        self.config = config
        self.embedding = nn.Parameter(torch.empty(config.vocab_size, config.units))
        self.layers = nn.GRU(config.units, config.units, config.layers, batch_first=True)
        self.head = nn.Parameter(torch.empty(config.vocab_size, config.units))

    def reset(self, seed: int) -> None:
        """See Network: matrices by their fan-in, the head and biases zero."""
        generator, width = torch.Generator().manual_seed(seed), self.config.units
        with torch.no_grad():
            for name, weight in self.named_parameters():
                kind = self.kinds()[name]
                if kind in {"matrix", "embedding"}:
                    weight.copy_(torch.randn(weight.shape, generator=generator) / width**0.5)
                else:
                    weight.zero_()

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
