"""Chat tokens for a base model: markers in its tokenizer, rows in its embedding and head.

The tokenizer of a base model gains the four chat markers (data/chat.py), and its embedding and head
one row for each. A new row is the mean of all rows plus a little noise, so the model gives each
marker about the probability of an average token in any context.

Source: the mean as initial value, Hewitt 2021, "Initializing new word embeddings for pretrained
language models".
"""

from dataclasses import replace

import torch
from torch import Tensor

from scalelab.data.chat import with_markers
from scalelab.evals.checkpoint import Checkpoint

NOISE = 0.1
"""Standard deviation of the noise, as a share of that of the existing rows."""


def with_chat_tokens(model: Checkpoint, seed: int) -> Checkpoint:
    """Return the model with chat tokens; the model itself if it already has them."""
    if model.chat is not None:
        return model
    tokenizer = with_markers(model.tokenizer)
    more = max(0, tokenizer.vocab_size - model.config.vocab_size)
    config = model.config.model_copy(update={"vocab_size": model.config.vocab_size + more})
    generator = torch.Generator().manual_seed(seed)
    network = config.network()
    rows = {name: len(weight) for name, weight in network.named_parameters()}
    weights = {
        name: _extended(weight, more, generator) if len(weight) != rows[name] else weight
        for name, weight in model.network.state_dict().items()
    }
    network.load_state_dict(weights)
    network.requires_grad_(False).eval().to(model.device)
    return replace(model, config=config, network=network, tokenizer=tokenizer)


def _extended(rows: Tensor, more: int, generator: torch.Generator) -> Tensor:
    noise = torch.randn(more, rows.shape[1], generator=generator).to(rows)
    new = rows.mean(0) + NOISE * rows.std(0) * noise
    return torch.cat((rows, new))
