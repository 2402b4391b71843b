"""SFT, reward models and DPO with TRL's trainers in place of our own steps.

    backend: own    losses.py, the flat optimizer
    backend: trl    SFTTrainer, RewardTrainer, DPOTrainer

Examples, pairs, their order and all that is reported come from our own work on the stage; only
the steps are TRL's. What the reference of DPO says is reckoned once, by us. Packed rows tell
transformers by their positions where one example ends and the next begins.

Source: TRL 1.16, as installed.
Not here: what the three share (by_trl.py), the stages' settings (sft.py, reward.py, dpo.py).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from scalelab.model.scalar_net import padded
from scalelab.posttrain.base import Finished, Given, Step
from scalelab.posttrain.by_trl import IGNORED, ByTrl, refuse_without_trl, said
from scalelab.posttrain.dpo import Dpo, Preferring
from scalelab.posttrain.pairs import both_sides
from scalelab.posttrain.reward import Reward, Valuing
from scalelab.posttrain.sft import Learning, Sft

if TYPE_CHECKING:
    from transformers import Trainer, TrainerState


class _OnRows(ByTrl):
    """A stage on rows that are there before it begins.

    Args:
        given: Of the stage.
        own: Our own work on it, for all but the steps.
        lengths: Tokens of each row.
    """

    def __init__(self, given: Given, own: Any, lengths: Sequence[int]):
        stage = own.stage
        lora = getattr(stage, "lora", None)
        super().__init__(
            given, own.start, stage.rates, stage.warmup, stage.batch, own.n_steps, lora
        )
        self.own = own
        each = [sum(lengths[i] for i in batch) for batch in own.order]
        self._tokens = np.cumsum(each)
        self.places = np.concatenate(own.order)
        self.names: dict[str, tuple[str, float]] = {}

    def _said(self, logs: Mapping[str, Any]) -> dict[str, float]:
        return said(logs, self.names)

    def _course(self, state: "TrainerState") -> list[list[float]]:
        return []

    def _n_tokens(self, step: int, logs: Mapping[str, float]) -> int:
        return int(self._tokens[step - 1])

    def _cost(self, state: "TrainerState") -> Step:
        n = float(self._tokens[state.global_step - 1])
        return Step(tokens=n, flops=n * self.own.start.train_flops)

    def evaluate(self) -> Step:
        """As our own work does."""
        return self.own.evaluate()

    def _record(self, out: Path) -> Finished:
        return self.own.finish(out)


class SftByTrl(_OnRows):
    """SFT by SFTTrainer."""

    def __init__(self, stage: Sft, given: Given):
        refuse_without_trl(stage.name, *(["peft"] if stage.lora else []))
        own = Learning(stage, given)
        super().__init__(given, own, [sum(len(e.tokens) for e in row) for row in own.rows])

    @property
    def module(self) -> nn.Module:
        """The model."""
        return self.own.network

    def _named(self, theirs: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.start.config.hugging_face().ours(theirs)

    def _made(self) -> "Trainer":
        from transformers import AutoModelForCausalLM

        rows = [
            {
                "input_ids": [t for e in row for t in e.tokens],
                "labels": [
                    t if counts else IGNORED
                    for e in row
                    for t, counts in zip(e.tokens, e.is_answer, strict=True)
                ],
                "positions": [i for e in row for i, _ in enumerate(e.tokens)],
            }
            for row in self.own.rows
        ]
        place = self.exported()
        more = {}
        settings = {"max_length": None, "packing": False, "loss_type": "nll"}
        if self.own.stage.packing:
            more["data_collator"] = Packed(self.start.chat.pad)
            settings["remove_unused_columns"] = False
        return self._trainer(
            "SFT",
            AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32),
            self.tokenizer(place),
            rows,
            self.places,
            settings,
            **more,
        )


class Packed:
    """Packed rows as a batch: positions begin anew with each example, so none sees another's."""

    def __init__(self, pad: int):
        self.pad = pad

    def __call__(self, rows: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, Tensor]:
        """The batch of SFTTrainer."""
        cpu = torch.device("cpu")
        tokens, _ = padded([row["input_ids"] for row in rows], self.pad, cpu)
        labels, _ = padded([row["labels"] for row in rows], IGNORED, cpu)
        positions, _ = padded([row["positions"] for row in rows], 0, cpu)
        return {"input_ids": tokens, "labels": labels, "position_ids": positions}


class RewardByTrl(_OnRows):
    """A reward model by RewardTrainer: a model for sequences with one number at the end."""

    def __init__(self, stage: Reward, given: Given):
        refuse_without_trl(stage.name)
        own = Valuing(stage, given)
        lengths = [sum(map(len, both_sides([pair]))) for pair in own.pairs.train]
        super().__init__(given, own, lengths)

    @property
    def module(self) -> nn.Module:
        """Trunk and number."""
        return self.own.net

    def _named(self, theirs: dict[str, Tensor]) -> dict[str, Tensor]:
        trunk = self.start.config.hugging_face().ours(theirs, headless=True)
        return {f"trunk.{n}": w for n, w in trunk.items()} | {"score": theirs["score.weight"][0]}

    def _made(self) -> "Trainer":
        from transformers import AutoModelForSequenceClassification

        place = self.exported()
        model = AutoModelForSequenceClassification.from_pretrained(
            place, num_labels=1, dtype=torch.float32
        )
        nn.init.zeros_(model.score.weight)  # as ours begins
        rows = [
            {"chosen_ids": list(better), "rejected_ids": list(worse)}
            for better, worse in (both_sides([pair]) for pair in self.own.pairs.train)
        ]
        settings = {"max_length": None}
        return self._trainer("Reward", model, self.tokenizer(place), rows, self.places, settings)


class DpoByTrl(_OnRows):
    """DPO by DPOTrainer."""

    def __init__(self, stage: Dpo, given: Given):
        refuse_without_trl(stage.name, *(["peft"] if stage.lora else []))
        own = Preferring(stage, given)
        lengths = [sum(map(len, both_sides([pair]))) for pair in own.pairs.train]
        super().__init__(given, own, lengths)
        # TRL's rewards are beta times what we report.
        self.names = {
            "rewards/accuracies": ("accuracy", 1.0),
            "rewards/margins": ("margin", 1 / stage.beta),
            "rewards/chosen": ("logp_chosen_change", 1 / stage.beta),
            "logps/chosen": ("logp_chosen", 1.0),
            "logps/rejected": ("logp_rejected", 1.0),
        }

    @property
    def module(self) -> nn.Module:
        """The model."""
        return self.own.network

    def _named(self, theirs: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.start.config.hugging_face().ours(theirs)

    def _made(self) -> "Trainer":
        from transformers import AutoModelForCausalLM

        stage, place = self.own.stage, self.exported()
        rows = [
            {
                "prompt_ids": list(pair.prompt),
                "chosen_ids": list(pair.chosen),
                "rejected_ids": list(pair.rejected),
                "ref_chosen_logps": float(better),
                "ref_rejected_logps": float(worse),
            }
            for pair, (better, worse) in zip(self.own.pairs.train, self.own.reference, strict=True)
        ]
        also = stage.sft_weight > 0
        settings = {
            "beta": stage.beta,
            "loss_type": ["sigmoid", "sft"] if also else ["sigmoid"],
            "loss_weights": [1.0, stage.sft_weight] if also else None,
            "max_length": None,
            "precompute_ref_log_probs": True,
        }
        model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)
        return self._trainer("DPO", model, self.tokenizer(place), rows, self.places, settings)
