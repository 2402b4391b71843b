"""A model that says how good an answer is, as one number.

    reward.json         what its trunk is, and the model that it came from
    reward.safetensors  its weights, the trunk's and the one row that reads the number

Not here: how it is learned (posttrain/reward.py).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from scalelab.errors import RunError
from scalelab.evals.checkpoint import Checkpoint
from scalelab.files import whole, write_json
from scalelab.model import ARCHITECTURES
from scalelab.model.scalar_net import ScalarNet, padded
from scalelab.model.transformer_net import TransformerNet


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
