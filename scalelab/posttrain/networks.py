"""The networks of post-training: one that is trained, and low-rank changes.

    Trainee     a network under the flat optimizer of pretraining, with a schedule
    Adapter     W + (alpha / rank) B A on the blocks' matrices, where only A and B are trained

Shapes: B rows, T positions, V vocabulary, C width.
Source: LoRA, Hu et al. 2021, arXiv:2106.09685.
Not here: losses (losses.py), what is trained on (the stages).
"""

import copy
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from scalelab.config import Config, Count, Positive
from scalelab.errors import ConfigError
from scalelab.evals.checkpoint import (
    DESCRIPTION,
    MODEL,
    TOKENIZER,
    WEIGHTS,
    Checkpoint,
    ModelRecord,
)
from scalelab.model.base import Kind
from scalelab.model.network import Network
from scalelab.posttrain.base import Rates
from scalelab.sealed import file_digest
from scalelab.train.checkpoint import save_weights
from scalelab.train.optimizers.flat import FlatOptimizer
from scalelab.train.schedule import WSD


class Lora(Config):
    """Train low-rank changes of the blocks' matrices, and leave the model itself alone."""

    rank: Count = 8
    alpha: Positive = 16.0
    """The change is scaled by alpha / rank."""


class Trainee:
    """A network that is being trained.

    Args:
        module: All of its parameters are trained.
        kinds: What each of them is.
        rates: Peak rate and the rest.
        n_steps: Updates that there will be, for the schedule.
        warmup: Share of them over which the rate rises; then it falls to zero linearly.
    """

    def __init__(
        self,
        module: nn.Module,
        kinds: dict[str, Kind],
        rates: Rates,
        n_steps: int,
        warmup: float = 0.1,
    ):
        module.requires_grad_(True)
        self.n_steps, self.schedule = n_steps, WSD(warmup=warmup, cooldown=1 - warmup)
        self.optimizer = FlatOptimizer(module, kinds, rates.spec(), torch.float32)

    def update(self, k: int) -> float:
        """One update with the gradient that there is. Its norm, unclipped."""
        return float(self.optimizer.step(self.schedule.factor(k, self.n_steps)))

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """Weights and the optimizer's state, to go on from."""
        both = self.optimizer.weights() | self.optimizer.state()
        return {f"{prefix}/{name}": tensor for name, tensor in both.items()}

    def restore(self, prefix: str, tensors: dict[str, Tensor]) -> None:
        """Go on from what tensors() gave."""
        mine = {
            name.removeprefix(f"{prefix}/"): tensor
            for name, tensor in tensors.items()
            if name.startswith(f"{prefix}/")
        }
        self.optimizer.restore(mine, mine)


def copied(model: Checkpoint) -> Network:
    """A model's network, to be changed."""
    return copy.deepcopy(model.network)


class Adapter(nn.Module):
    """Low-rank changes of a network's blocks. The network computes with them from now on.

    Args:
        network: Whole; its own weights stay as they are.
        lora: Rank and scale.
        seed: Decides A; B is zero, so that nothing is changed yet.
    """

    def __init__(self, network: Network, lora: Lora, seed: int):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.scale = lora.alpha / lora.rank
        self.low, self.high = nn.ParameterDict(), nn.ParameterDict()
        self._of: dict[int, str] = {}
        for key, weight in adaptable(network).items():
            low = torch.randn(lora.rank, weight.shape[1], generator=generator)
            self.low[key] = nn.Parameter(low.to(weight) / math.sqrt(weight.shape[1]))
            self.high[key] = nn.Parameter(weight.new_zeros(weight.shape[0], lora.rank))
            self._of[id(weight)] = key
        network.adapt(self.changed)
        network.requires_grad_(False)

    def changed(self, weight: Tensor) -> Tensor:
        """A weight of the network with its change."""
        key = self._of.get(id(weight))
        if key is None:
            return weight
        return weight + self.scale * (self.high[key] @ self.low[key])

    def kinds(self) -> dict[str, Kind]:
        """What each named parameter is."""
        return {name: "matrix" for name, _ in self.named_parameters()}


def adaptable(network: Network) -> dict[str, nn.Parameter]:
    """The matrices that low-rank changes are made to. Raises ConfigError where there are none."""
    found = network.adaptable()
    if not found:
        raise ConfigError(
            f"{network.config.kind} cannot be trained by low-rank changes",
            where="lora",
            fix="leave lora out, so that the whole model is trained",
        )
    return found


def merged(network: Network) -> dict[str, Tensor]:
    """A network's weights by name, fp32, on the CPU, low-rank changes put into them."""
    with torch.no_grad():
        return {
            name: network.used(parameter).detach().float().cpu().clone()
            for name, parameter in network.named_parameters()
        }


def write_model(out: Path, like: Checkpoint, weights: dict[str, Tensor]) -> dict[str, str]:
    """Write a model directory: model.json, model.safetensors and the tokenizer.

    Args:
        out: The directory.
        like: A model that differs in its weights alone.
        weights: By name, fp32.

    Returns: The SHA-256 of each file, by name.
    """
    like.tokenizer.save(out / TOKENIZER)
    files = {
        WEIGHTS: save_weights(out / WEIGHTS, weights),
        TOKENIZER: file_digest(out / TOKENIZER),
    }
    record = ModelRecord(
        architecture=like.config.model_dump(mode="json"),
        seq_len=like.seq_len,
        tokenizer=like.tokenizer.name,
        corpus=like.corpus,
        files=files,
    )
    MODEL.write(out / DESCRIPTION, record)
    return {**files, DESCRIPTION: file_digest(out / DESCRIPTION)}
