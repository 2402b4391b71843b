"""A model that says how good an answer is, as one number.

    reward.json         what its trunk is, and its context
    reward.safetensors  its weights, the trunk's and the one row that reads the number
    tokenizer.json      of the model that it came from

Not here: how it is learned (posttrain/reward.py).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from scalelab.data.chat import Chat
from scalelab.data.tokenizer import TextTokenizer
from scalelab.errors import RunError
from scalelab.files import write_json
from scalelab.model import ARCHITECTURES
from scalelab.model.scalar_net import ScalarNet, padded
from scalelab.model.transformer_net import TransformerNet
from scalelab.train.checkpoint import save_weights
from scalelab.train.device import find_device


@dataclass(frozen=True, eq=False)
class RewardModel:
    """A model that gives a conversation one number: how good its last answer is."""

    net: ScalarNet
    chat: Chat
    seq_len: int

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.net.score.device

    @property
    def forward_flops(self) -> float:
        """FLOPs a token, at its whole context."""
        return self.net.trunk.config.size(self.seq_len).flops_per_token / 3

    @classmethod
    def load(cls, path: Path) -> "RewardModel":
        """The reward model in a stage's directory.

        Raises:
            RunError: There is none.
            DataError: Its tokenizer cannot be read.
        """
        try:
            record = json.loads((path / "reward.json").read_text(encoding="utf-8"))
            config = ARCHITECTURES["transformer"].model_validate(record["architecture"])
            weights, seq_len = load_file(path / "reward.safetensors"), record["seq_len"]
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise RunError(
                f"the reward model cannot be read: {error}",
                where=str(path / "reward.json"),
                fix="name a finished stage of kind reward, or delete its directory and run the "
                "same command again",
            ) from error
        net = ScalarNet(TransformerNet(config))
        net.load_state_dict(weights)
        net.requires_grad_(False).to(find_device().torch)
        return cls(net, Chat(TextTokenizer.load(path / "tokenizer.json")), seq_len)

    def write(self, out: Path) -> None:
        """Write its files."""
        self.chat.tokenizer.save(out / "tokenizer.json")
        save_weights(out / "reward.safetensors", self.net.state_dict())
        architecture = self.net.trunk.config.model_dump(mode="json")
        record = {"schema": 1, "architecture": architecture, "seq_len": self.seq_len}
        write_json(out / "reward.json", record)

    def score(self, rows: Sequence[Sequence[int]], at_once: int = 128) -> Tensor:
        """The number at the last token of each row, fp32, on the CPU, shape (n,)."""
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        scores = torch.zeros(len(rows))
        with torch.no_grad():
            for start in range(0, len(order), at_once):
                batch = order[start : start + at_once]
                tokens, mask = padded([rows[i] for i in batch], 0, self.device)
                last = mask.sum(1).long() - 1
                values = self.net(tokens)
                scores[batch] = values[torch.arange(len(batch)), last].cpu()
        return scores
