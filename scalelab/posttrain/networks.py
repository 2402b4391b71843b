"""Networks under post-training: full fine-tuning and low-rank adapters.

    TrainableModel   a network with the flat optimizer of pretraining and a schedule
    LoraAdapter      W + (alpha / rank) B A on the blocks' matrices; only A and B are trained

Shapes: B rows, T positions, V vocabulary, C width.
Source: LoRA, Hu et al. 2021, arXiv:2106.09685.
Not here: losses (losses.py), training data (stages/).
"""

import copy
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from scalelab.config import Config, Count, Positive
from scalelab.errors import ConfigError
from scalelab.evals.checkpoint import DESCRIPTION, MODEL, TOKENIZER, WEIGHTS, Checkpoint, ModelRecord
from scalelab.model.base import Kind
from scalelab.model.network import Network
from scalelab.posttrain.base import OptimizerSetting
from scalelab.sealed import file_digest
from scalelab.train.checkpoints.unsharded import save_weights
from scalelab.train.optimizers.flat import FlatOptimizer
from scalelab.train.schedule import WSD


class Lora(Config):
    """Train low-rank updates of the blocks' matrices and keep the model's own weights fixed."""

    rank: Count = 8
    """Rank of each update."""
    alpha: Positive = 16.0
    """Scale: the update is multiplied by alpha / rank."""


class TrainableModel:
    """A network with its optimizer and learning-rate schedule.

    Args:
        module: Network; all of its parameters are trained but those of `sign_steps` (Network), which stay as
            pretraining left them: their step does not follow the learning rate, and the text is another.
        kinds: Kind of each parameter, by name.
        rates: Optimizer settings, with the peak learning rate.
        n_steps: Total number of updates, for the schedule.
        warmup: Share of the updates over which the rate rises; it then falls to zero linearly.
    """

    def __init__(
        self,
        module: nn.Module,
        kinds: dict[str, Kind],
        rates: OptimizerSetting,
        n_steps: int,
        warmup: float = 0.1,
    ):
        module.requires_grad_(True)
        self.n_steps, self.schedule = n_steps, WSD(warmup=warmup, cooldown=1 - warmup)
        kept = dict.fromkeys(getattr(module, "sign_steps", dict)(), 0.0)
        self.optimizer = FlatOptimizer(module, kinds, rates.spec(), torch.float32, sign_steps=kept)

    def update(self, k: int) -> float:
        """Update the weights with the accumulated gradient and return its norm before clipping."""
        return float(self.optimizer.step(self.schedule.factor(k, self.n_steps)))

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """Return weights and optimizer state for a checkpoint."""
        both = self.optimizer.weights() | self.optimizer.state()
        return {f"{prefix}/{name}": tensor for name, tensor in both.items()}

    def restore(self, prefix: str, tensors: dict[str, Tensor]) -> None:
        """Resume from what tensors() returned."""
        mine = {
            name.removeprefix(f"{prefix}/"): tensor
            for name, tensor in tensors.items()
            if name.startswith(f"{prefix}/")
        }
        self.optimizer.restore(mine, mine)


def copy_network(model: Checkpoint) -> Network:
    """Return a copy of a model's network for training."""
    return copy.deepcopy(model.network)


class LoraAdapter(nn.Module):
    """Low-rank updates of a network's blocks. The network computes with them from now on.

    Args:
        network: Network, not sharded; its own weights stay fixed.
        lora: Rank and scale.
        seed: Seed of A. B begins as zero, so the adapter changes nothing at first.
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
        """Return a weight of the network with its update added."""
        key = self._of.get(id(weight))
        if key is None:
            return weight
        return weight + self.scale * (self.high[key] @ self.low[key])

    def kinds(self) -> dict[str, Kind]:
        """Return the kind of each parameter, by name."""
        return {name: "matrix" for name, _ in self.named_parameters()}


def adaptable(network: Network) -> dict[str, nn.Parameter]:
    """Return the matrices that can have low-rank updates. Raises ConfigError: there are none."""
    found = network.adaptable()
    if not found:
        raise ConfigError(
            f"the architecture {network.config.kind!r} does not support LoRA",
            where="lora",
            fix="remove lora to train all weights",
        )
    return found


def merged_weights(network: Network) -> dict[str, Tensor]:
    """Return a network's weights by name, fp32, on the CPU, with low-rank updates merged in."""
    with torch.no_grad():
        return {
            name: network.used(parameter).detach().float().cpu().clone()
            for name, parameter in network.named_parameters()
        }


def write_model(out: Path, like: Checkpoint, weights: dict[str, Tensor]) -> dict[str, str]:
    """Write a model directory: model.json, model.safetensors and the tokenizer.

    Args:
        out: Directory to write to.
        like: Model with the same architecture, tokenizer and context.
        weights: Weights by name, fp32.

    Returns: The SHA-256 of each file, by name.
    """
    like.tokenizer.save(out / TOKENIZER)
    files = {WEIGHTS: save_weights(out / WEIGHTS, weights), TOKENIZER: file_digest(out / TOKENIZER)}
    record = ModelRecord(
        architecture=like.config.model_dump(mode="json"),
        seq_len=like.seq_len,
        tokenizer=like.tokenizer.name,
        corpus=like.corpus,
        files=files,
    )
    MODEL.write(out / DESCRIPTION, record)
    return {**files, DESCRIPTION: file_digest(out / DESCRIPTION)}
