"""From a model that writes on to one that can be spoken to: tokens for turns, rows for them.

A base model's tokenizer gets the four markers of conversations (data/chat.py), its embedding and
head a row for each. A new row is the mean of all rows and a little noise: the model then gives
each marker about the share of an average token, whatever stood before.

Source: the mean as a start, Hewitt 2021, "Initializing new word embeddings for pretrained
language models".
"""

from dataclasses import replace

import torch
from torch import Tensor

from scalelab.data.chat import with_markers
from scalelab.evals.checkpoint import Checkpoint

NOISE = 0.1
"""Spread of new rows, as a share of the spread between the old ones."""


def conversing(model: Checkpoint, seed: int) -> Checkpoint:
    """The model with what a conversation needs; itself where it has it already."""
    if model.chat is not None:
        return model
    tokenizer = with_markers(model.tokenizer)
    more = max(0, tokenizer.vocab_size - model.config.vocab_size)
    config = model.config.model_copy(update={"vocab_size": model.config.vocab_size + more})
    generator = torch.Generator().manual_seed(seed)
    kinds = model.network.kinds()
    weights = {
        name: _grown(weight, more, generator) if kinds[name] in {"embedding", "head"} else weight
        for name, weight in model.network.state_dict().items()
    }
    network = config.network()
    network.load_state_dict(weights)
    network.requires_grad_(False).eval().to(model.device)
    return replace(model, config=config, network=network, tokenizer=tokenizer)


def _grown(rows: Tensor, more: int, generator: torch.Generator) -> Tensor:
    noise = torch.randn(more, rows.shape[1], generator=generator).to(rows)
    new = rows.mean(0) + NOISE * rows.std(0) * noise
    return torch.cat((rows, new))
