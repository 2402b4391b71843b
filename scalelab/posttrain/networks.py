"""The networks of post-training: one that is trained, one that gives a number, low-rank changes.

    Trainee     a network under the flat AdamW of pretraining, with a schedule
    ScalarNet   a model's trunk and one number for each position: reward models, critics
    Adapter     W + (alpha / rank) B A on the blocks' matrices, where only A and B are trained

Shapes: B rows, T positions, V vocabulary, C width.
Source: LoRA, Hu et al. 2021, arXiv:2106.09685.
Not here: losses (losses.py), what is trained on (the stages).
"""

import copy
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from scalelab.config import Config, Count, Positive
from scalelab.errors import RunError
from scalelab.evals.checkpoint import Checkpoint
from scalelab.files import whole, write_json
from scalelab.model import ARCHITECTURES
from scalelab.model.base import Kind
from scalelab.model.transformer_net import TransformerNet
from scalelab.model.whole import Whole
from scalelab.posttrain.base import Rates
from scalelab.train.optim import FlatAdamW
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
        self.optimizer = FlatAdamW(module, kinds, rates.spec(), torch.float32)

    def update(self, k: int) -> float:
        """One update with the gradient that there is. Its norm, unclipped."""
        return float(self.optimizer.step(self.schedule.factor(k, self.n_steps)))

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """Weights and moments, to go on from."""
        both = self.optimizer.weights() | self.optimizer.moments()
        return {f"{prefix}/{name}": tensor for name, tensor in both.items()}

    def restore(self, prefix: str, tensors: dict[str, Tensor]) -> None:
        """Go on from what tensors() gave."""
        mine = {
            name.removeprefix(f"{prefix}/"): tensor
            for name, tensor in tensors.items()
            if name.startswith(f"{prefix}/")
        }
        self.optimizer.restore(mine, mine)


class ScalarNet(nn.Module):
    """A trunk with one number for each position, zero everywhere before training."""

    def __init__(self, trunk: TransformerNet):
        super().__init__()
        self.trunk = trunk
        if not trunk.config.tied:
            del self.trunk.head
        self.score = nn.Parameter(torch.zeros(trunk.config.d_model, device=trunk.norm.device))

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """One number for each position, fp32, shape (B, T)."""
        return (self.trunk.hidden(tokens_BT) @ self.score).float()

    def kinds(self) -> dict[str, Kind]:
        """What each named parameter is."""
        return {f"trunk.{n}": kind for n, kind in self.trunk.kinds().items()} | {"score": "head"}


def copied(model: Checkpoint) -> TransformerNet:
    """A model's network, to be changed."""
    return copy.deepcopy(model.network)


class Adapter(nn.Module):
    """Low-rank changes of a network's blocks. The network computes with them from now on.

    Args:
        network: Whole; its own weights stay as they are.
        lora: Rank and scale.
        seed: Decides A; B is zero, so that nothing is changed yet.
    """

    def __init__(self, network: TransformerNet, lora: Lora, seed: int):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.scale = lora.alpha / lora.rank
        self.low, self.high = nn.ParameterDict(), nn.ParameterDict()
        self._of: dict[int, str] = {}
        for i, block in network.blocks.items():
            for name in ("qkv", "out", "gate_up", "down"):
                weight = getattr(block, name)
                key = f"{i}_{name}"
                low = torch.randn(lora.rank, weight.shape[1], generator=generator)
                self.low[key] = nn.Parameter(low.to(weight) / math.sqrt(weight.shape[1]))
                self.high[key] = nn.Parameter(weight.new_zeros(weight.shape[0], lora.rank))
                self._of[id(weight)] = key
            block.cut = _Changed(self)
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


class _Changed(Whole):
    def __init__(self, adapter: Adapter):
        self.adapter = adapter

    def weight(self, parameter: Tensor) -> Tensor:
        """The weight with its change."""
        return self.adapter.changed(parameter)


def merged(network: TransformerNet) -> dict[str, Tensor]:
    """A network's weights by name, fp32, on the CPU, low-rank changes put into them."""
    with torch.no_grad():
        weights = {}
        for name, parameter in network.named_parameters():
            part, _, rest = name.partition(".")
            cut = network.blocks[rest.split(".")[0]].cut if part == "blocks" else network.cut
            weights[name] = cut.weight(parameter).detach().float().cpu().clone()
        return weights


def write_model(out: Path, like: Checkpoint, weights: dict[str, Tensor]) -> None:
    """Write a model directory: model.json, model.safetensors and the tokenizer."""
    like.tokenizer.save(out / "tokenizer.json")
    with whole(out / "model.safetensors") as file:
        save_file(weights, file.name)
    write_json(
        out / "model.json",
        {
            "schema": 1,
            "architecture": like.config.model_dump(mode="json"),
            "seq_len": like.seq_len,
            "tokenizer": like.tokenizer.name,
            "corpus": like.corpus,
        },
    )


@dataclass(frozen=True, eq=False)
class RewardModel:
    """A model that gives a conversation one number: how good its last answer is."""

    net: ScalarNet
    like: Checkpoint
    """The model that its trunk came from, for tokenizer and context."""

    @classmethod
    def load(cls, path: Path) -> "RewardModel":
        """The reward model in a stage's directory. Raises RunError: there is none."""
        try:
            record = json.loads((path / "reward.json").read_text(encoding="utf-8"))
            config = ARCHITECTURES["transformer"].model_validate(record["architecture"])
            weights = load_file(path / "reward.safetensors")
            like = Checkpoint.load(Path(record["like"]))
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise RunError(
                f"the reward model cannot be read: {error}",
                where=str(path / "reward.json"),
                fix="name a finished stage of kind reward, or delete its directory and run the "
                "same command again",
            ) from error
        net = ScalarNet(TransformerNet(config))
        net.load_state_dict(weights)
        net.requires_grad_(False).to(like.device)
        return cls(net, like)

    def write(self, out: Path) -> None:
        """Write reward.json and reward.safetensors."""
        weights = {n: p.detach().float().cpu().clone() for n, p in self.net.state_dict().items()}
        with whole(out / "reward.safetensors") as file:
            save_file(weights, file.name)
        record = {
            "schema": 1,
            "architecture": self.like.config.model_dump(mode="json"),
            "like": str(self.like.path),
        }
        write_json(out / "reward.json", record)

    def score(self, rows: Sequence[Sequence[int]], at_once: int = 128) -> Tensor:
        """The number at the last token of each row, fp32, on the CPU, shape (n,)."""
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        scores = torch.zeros(len(rows))
        with torch.no_grad():
            for start in range(0, len(order), at_once):
                batch = order[start : start + at_once]
                tokens, mask = padded([rows[i] for i in batch], 0, self.like.device)
                last = mask.sum(1).long() - 1
                values = self.net(tokens)
                scores[batch] = values[torch.arange(len(batch)), last].cpu()
        return scores


def padded(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows padded on the right to one length, and 1 where a token is real; shape (B, T) both."""
    longest = max(map(len, rows))
    tokens = torch.full((len(rows), longest), pad, dtype=torch.long)
    mask = torch.zeros((len(rows), longest))
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = torch.as_tensor(row)
        mask[i, : len(row)] = 1
    return tokens.to(device), mask.to(device)
