"""Writing with a model: one token after the other.

    prompts of any lengths  ->  up to n_new tokens after each

An architecture may bring a reader that remembers what came before (its `generate` part), so that
a new token costs one position. Without one, everything is read again for every token.

Shapes: B rows, T new positions, V vocabulary.
Source: top-p, Holtzman et al. 2020, arXiv:1904.09751.
Not here: text (evals/checkpoint.py), training (network.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from scalelab.model.network import Network
from scalelab.model.scalar_net import padded


class TokenReader(Protocol):
    """What has been read so far of a batch of rows, and how to read on."""

    def __init__(self, network: Network, prompts: Sequence[Sequence[int]], n_new: int):
        """Nothing is read yet; room for the prompts and n_new tokens after each."""

    def first(self) -> Tensor:
        """Logits after the last token of each prompt, shape (B, V)."""

    def next(self, tokens_B: Tensor) -> Tensor:
        """Logits after one more token of each row, shape (B, V). Tokens are on the CPU."""


class FullContextReader:
    """Reads every row anew for each token, with any network."""

    def __init__(self, network: Network, prompts: Sequence[Sequence[int]], n_new: int):
        del n_new
        self.network, self.rows = network, [list(prompt) for prompt in prompts]

    def first(self) -> Tensor:
        """See Reader."""
        device = next(self.network.parameters()).device
        tokens, mask = padded(self.rows, 0, device)  # on the right, where nothing looks
        last = mask.sum(1).long() - 1
        return self.network(tokens)[torch.arange(len(tokens), device=device), last]

    def next(self, tokens_B: Tensor) -> Tensor:
        """See Reader."""
        for row, token in zip(self.rows, tokens_B.tolist(), strict=True):
            row.append(token)
        return self.first()


@dataclass(frozen=True, eq=False)
class Generation:
    """What a batch of prompts was continued with."""

    tokens: list[list[int]]
    """The new tokens of each row, the end token included where it was written."""
    ended: list[bool]
    """Whether the row wrote the end token, or was cut off."""


@torch.no_grad()
def write(
    network: Network,
    prompts: Sequence[Sequence[int]],
    *,
    n_new: int,
    end: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
    never: Sequence[int] = (),
    longest_row: int | None = None,
) -> Generation:
    """Continue prompts, all in one batch.

    Args:
        network: Whole, on its device.
        prompts: Tokens of each row, at least one.
        n_new: Most new tokens of a row.
        end: The token after which a row is done.
        temperature: 0 takes the likeliest token; otherwise tokens are drawn.
        top_p: Draw only from the likeliest tokens that together have this probability.
        generator: Decides the draws; on the CPU, whatever the device.
        never: Tokens that are not written, such as padding.
        longest_row: Most tokens of a prompt and what follows it; None: no limit but n_new and that of the model.
    """
    limit = network.config.context_limit()
    longest_row = min((n for n in (longest_row, limit) if n is not None), default=None)
    parts = network.config.parts
    read = network.config.part("generate") if "generate" in parts else FullContextReader
    reader: TokenReader = read(network, prompts, n_new)
    logits = reader.first()
    done, new = torch.zeros(len(prompts), dtype=torch.bool), []
    for i in range(n_new):
        if len(never):
            logits[:, list(never)] = -torch.inf
        chosen = _choose(logits.float().cpu(), temperature, top_p, generator)
        new.append(torch.where(done, end, chosen))
        done |= chosen == end
        if bool(done.all()) or i + 1 == n_new:
            break
        logits = reader.next(new[-1])
    rows = torch.stack(new, dim=1).tolist() if new else [[] for _ in prompts]
    cut = [row[: row.index(end) + 1] if end in row else row for row in rows]
    if longest_row is not None:
        # A short prompt beside a long one has more room, and none is written beyond its own.
        cut = [row[: longest_row - len(p)] for row, p in zip(cut, prompts, strict=True)]
    return Generation(cut, [row[-1:] == [end] for row in cut])


def _choose(logits_BV: Tensor, temperature: float, top_p: float, generator: torch.Generator | None) -> Tensor:
    """The next token of each row, shape (B,)."""
    if temperature == 0:
        return logits_BV.argmax(-1)
    share = torch.softmax(logits_BV / temperature, dim=-1)
    if top_p < 1:
        ordered, place = share.sort(dim=-1, descending=True)
        ordered[ordered.cumsum(-1) - ordered >= top_p] = 0.0  # the likeliest always stays
        share = torch.zeros_like(share).scatter(-1, place, ordered)
    return torch.multinomial(share, 1, generator=generator)[:, 0]
