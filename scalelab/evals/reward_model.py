"""A reward model: one number for the quality of an answer.

    reward.json         sealed: architecture of the trunk, context length, SHA-256 of the other two
    reward.safetensors  weights of the trunk and of the scalar head
    tokenizer.json      tokenizer of the model that it was trained from

Not here: how it is trained (posttrain/stages/reward.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scalelab.data.chat import Chat
from scalelab.data.tokenizer import TextTokenizer
from scalelab.errors import RunError
from scalelab.evals.checkpoint import (
    RESTORE,
    TOKENIZER,
    architecture_of,
    check_files_beside,
    check_weight_count,
    fit,
    read_tensors,
)
from scalelab.hardware.device import find_device, tf32_products
from scalelab.model.scalar_net import ScalarNet, padded
from scalelab.sealed import Damaged, Format, file_digest
from scalelab.train.checkpoints.unsharded import save_weights

WEIGHTS, DESCRIPTION = "reward.safetensors", "reward.json"


@dataclass(frozen=True)
class RewardRecord:
    """Contents of reward.json."""

    architecture: dict[str, Any]
    """Architecture of the trunk."""
    seq_len: int
    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the weights and the tokenizer beside it. Empty in files written before sealing existed."""


REWARD = Format("reward model description", RewardRecord, schema=2, fix=RESTORE, unsealed=1)


@dataclass(frozen=True, eq=False)
class RewardModel:
    """A model that scores the last answer of a conversation."""

    net: ScalarNet
    chat: Chat
    seq_len: int

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.net.score.device

    @property
    def forward_flops(self) -> float:
        """FLOPs per token of the forward pass, at full context."""
        return self.net.trunk.config.size(self.seq_len).flops_per_token / 3

    @classmethod
    def load(cls, path: Path) -> "RewardModel":
        """Return the reward model in a stage's directory.

        Raises:
            RunError: There is none, or one of its files is damaged.
            DataError: Its tokenizer cannot be read.
        """
        place = path / DESCRIPTION
        try:
            record = REWARD.read(place)
            config = architecture_of(record.architecture)
        except FileNotFoundError:
            raise RunError(
                "there is no reward model",
                where=str(path),
                fix="name a finished stage that trains a reward model; if its reward.json is lost, "
                "restore that, or delete result.json and run the command of the stage again",
            ) from None
        except Damaged as damage:
            raise REWARD.refusal(place, damage) from None
        check_files_beside(path, record.files)
        weights = read_tensors(path / WEIGHTS)
        blocks = config.blocks()
        head = 0 if blocks.tied else blocks.vocabulary
        n = config.size(record.seq_len).n_params_total - head + blocks.width
        check_weight_count(weights, n, path / WEIGHTS)
        net = ScalarNet(config.network())
        fit(net, weights, path / WEIGHTS)
        net.requires_grad_(False).to(find_device().torch)
        return cls(net, Chat(TextTokenizer.load(path / TOKENIZER)), record.seq_len)

    def write(self, out: Path) -> dict[str, str]:
        """Write its files. Returns the SHA-256 of each, by name."""
        self.chat.tokenizer.save(out / TOKENIZER)
        files = {
            WEIGHTS: save_weights(out / WEIGHTS, self.net.state_dict()),
            TOKENIZER: file_digest(out / TOKENIZER),
        }
        architecture = self.net.trunk.config.model_dump(mode="json")
        REWARD.write(out / DESCRIPTION, RewardRecord(architecture, self.seq_len, files))
        return {**files, DESCRIPTION: file_digest(out / DESCRIPTION)}

    def score(self, rows: Sequence[Sequence[int]], at_once: int = 128) -> Tensor:
        """Return the score at the last token of each row, fp32, on the CPU, shape (n,)."""
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        scores = torch.zeros(len(rows))
        with torch.no_grad(), tf32_products():
            for start in range(0, len(order), at_once):
                batch = order[start : start + at_once]
                tokens, mask = padded([rows[i] for i in batch], 0, self.device)
                last = mask.sum(1).long() - 1
                values = self.net(tokens)
                scores[batch] = values[torch.arange(len(batch)), last].cpu()
        return scores
