"""An LSTM language model: the torch module.

Notable:
- the layers are one torch.nn.LSTM, so a device's own kernel computes all of them, and torch.compile is
  not asked to (it breaks its graph at recurrent layers);
- matrices start at std 1/sqrt(units), the embedding at 0.02, biases at zero but for those of the forget
  gates, which start at one (Jozefowicz et al. 2015); the head starts at zero, unless it is tied;
- segments of a row are read in rows of their own, each from a state of zeros.

Shapes: B batch, T time, S segments, C width, V vocabulary.
Only run on a CPU so far. On a GPU the weights lie in the optimizer's buffer, which cuDNN copies in each pass.

Not here: dimensions and costs (config.py), reading on from a state (generate.py).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding
from torch.nn.utils.rnn import pad_sequence

from scalelab.model.base import Kind
from scalelab.model.kernels import cross_entropy
from scalelab.model.linear_loss import linear_cross_entropy
from scalelab.model.lstm.config import Lstm
from scalelab.model.network import Network
from scalelab.model.products import linear

EMBEDDING_STD = 0.02


class LstmNet(Network):
    """The model: tokens in, logits or loss out."""

    config: Lstm

    def __init__(self, config: Lstm):
        super().__init__()
        self.config = config
        self.embedding = nn.Parameter(torch.empty(config.vocab_size, config.units))
        self.layers = nn.LSTM(config.units, config.units, config.layers, batch_first=True)
        if not config.tied:
            self.head = nn.Parameter(torch.empty(config.vocab_size, config.units))

    @property
    def follows(self) -> frozenset[str]:
        """See Network."""
        return frozenset({"loss_rows"})

    def reset(self, seed: int) -> None:
        """See Network."""
        generator, width = torch.Generator().manual_seed(seed), self.config.units
        with torch.no_grad():
            for name, weight in self.named_parameters():
                kind = kind_of(name)
                if kind in {"matrix", "embedding"}:
                    std = EMBEDDING_STD if kind == "embedding" else width**-0.5
                    weight.copy_(torch.randn(weight.shape, generator=generator) * std)
                else:
                    weight.zero_()
                if ".bias_ih" in name:
                    weight[width : 2 * width] = 1.0  # gates are input, forget, cell, output

    def kinds(self) -> dict[str, Kind]:
        """See Network."""
        return {name: kind_of(name) for name, _ in self.named_parameters()}

    def forward(
        self, x: Tensor, targets_BT: Tensor | None = None, segments_BT: Tensor | None = None
    ) -> Tensor:
        """See Network."""
        hidden = self.hidden(x) if segments_BT is None else self._apart(x, segments_BT)
        if targets_BT is None:
            return linear(hidden.flatten(0, 1), self.output).unflatten(0, hidden.shape[:2])
        rows, targets = hidden.flatten(0, 1), targets_BT.reshape(-1)
        if self.loss_rows is not None:
            return linear_cross_entropy(rows, self.output, targets, self.loss_rows)
        return cross_entropy(linear(rows, self.output), targets)

    @property
    def output(self) -> Tensor:
        """Weight of the head, shape (V, C)."""
        return self.embedding if self.config.tied else self.head

    def hidden(self, tokens_BT: Tensor) -> Tensor:
        """See Network."""
        return self.layers(embedding(tokens_BT, self.embedding))[0]

    def compile_with(self, compiler: Callable[[Callable], Callable], whole: bool) -> None:
        """See Network. Nothing is compiled."""

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


def kind_of(name: str) -> Kind:
    """What a weight is, by its name."""
    if name in {"embedding", "head"}:
        return name
    return "vector" if ".bias" in name else "matrix"
