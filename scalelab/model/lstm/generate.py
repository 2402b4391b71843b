"""Reading on with an LSTM: the state of each row is all that is kept of earlier positions.

Shapes: B rows, T positions, V vocabulary.
Not here: which token is written (model/generate.py), training (network.py).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import embedding, linear
from torch.nn.utils.rnn import pack_padded_sequence

from scalelab.model.lstm.network import LstmNet
from scalelab.model.scalar_net import padded


class StateReader:
    """The state after all positions so far. See TokenReader."""

    def __init__(self, network: LstmNet, prompts: Sequence[Sequence[int]], n_new: int):
        del n_new
        self.network, self.state = network, None
        device = network.embedding.device
        self.tokens, _ = padded(prompts, 0, device)
        self.lengths = torch.tensor([len(prompt) for prompt in prompts])

    def first(self) -> Tensor:
        """Logits after the prompts, shape (B, V)."""
        x_BTC = embedding(self.tokens, self.network.embedding)
        _, self.state = self.network.layers(
            pack_padded_sequence(x_BTC, self.lengths, batch_first=True, enforce_sorted=False)
        )
        return self._logits()

    def next(self, tokens_B: Tensor) -> Tensor:
        """Logits after one more token of each row, shape (B, V)."""
        tokens_B1 = tokens_B.to(self.tokens.device)[:, None]
        _, self.state = self.network.layers(embedding(tokens_B1, self.network.embedding), self.state)
        return self._logits()

    def _logits(self) -> Tensor:
        return linear(self.state[0][-1], self.network.output)
