"""SFT, reward models and DPO with the steps of TRL's trainers.

    backend: own    losses.py, the flat optimizer
    backend: trl    SFTTrainer, RewardTrainer, DPOTrainer

Examples, pairs, their order and all reported metrics come from our own job of the stage; TRL makes
the steps only. DPO's reference log-probabilities are computed once, by our job. In packed rows the
positions mark for transformers where an example ends.

The class of our job is a parameter: the stages import this file, which does not import them.

Source: TRL 1.16, as installed.
Not here: the shared part (base.py), settings and our jobs (stages/{sft,reward,dpo}.py).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from scalelab.model.scalar_net import padded
from scalelab.posttrain.base import FinishedStage, StageContext, StepResult
from scalelab.posttrain.pairs import PairStage, full_sequences
from scalelab.posttrain.trl.base import IGNORE_INDEX, TrlJob, journal_numbers, require_trl

if TYPE_CHECKING:
    from transformers import Trainer, TrainerState


class _OfflineJob(TrlJob):
    """A stage on rows that exist before it begins.

    Args:
        context: Context of the stage.
        own: Our own job of the stage, for everything but the steps.
        lengths: Number of tokens per row.
    """

    def __init__(self, context: StageContext, own: Any, lengths: Sequence[int]):
        stage = own.stage
        lora = getattr(stage, "lora", None)
        super().__init__(context, own.start, stage.rates, stage.warmup, stage.batch, own.n_steps, lora)
        self.own = own
        each = [sum(lengths[i] for i in batch) for batch in own.order]
        self._tokens = np.cumsum(each)
        self.places = np.concatenate(own.order)
        self.names: dict[str, tuple[str, float]] = {}

    def _journal_numbers(self, logs: Mapping[str, Any]) -> dict[str, float]:
        return journal_numbers(logs, self.names)

    def _curve(self, state: "TrainerState") -> list[list[float]]:
        return []

    def _n_tokens(self, step: int, logs: Mapping[str, float]) -> int:
        return int(self._tokens[step - 1])

    def _cost(self, state: "TrainerState") -> StepResult:
        n = float(self._tokens[state.global_step - 1])
        return StepResult(tokens=n, flops=n * self.own.start.train_flops)

    def evaluate(self) -> StepResult:
        """Evaluate as our own job does."""
        return self.own.evaluate()

    def _record(self, out: Path) -> FinishedStage:
        return self.own.finish(out)


class TrlSftJob(_OfflineJob):
    """SFT by SFTTrainer. `own_job` is the class of our job."""

    def __init__(self, stage: Any, context: StageContext, own_job: Callable[[Any, StageContext], Any]):
        require_trl(stage.name, *(["peft"] if stage.lora else []))
        own = own_job(stage, context)
        super().__init__(context, own, [sum(len(e.tokens) for e in row) for row in own.rows])

    @property
    def module(self) -> nn.Module:
        """Our network."""
        return self.own.network

    def _named(self, theirs: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.start.config.hugging_face().ours(theirs)

    def _make_trainer(self) -> "Trainer":
        from transformers import AutoModelForCausalLM

        rows = [
            {
                "input_ids": [t for e in row for t in e.tokens],
                "labels": [
                    t if counts else IGNORE_INDEX
                    for e in row
                    for t, counts in zip(e.tokens, e.is_answer, strict=True)
                ],
                "positions": [i for e in row for i, _ in enumerate(e.tokens)],
            }
            for row in self.own.rows
        ]
        place = self.export_start()
        more = {}
        settings = {"max_length": None, "packing": False, "loss_type": "nll"}
        if self.own.stage.packing:
            more["data_collator"] = PackedCollator(self.start.chat.pad)
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


class PackedCollator:
    """Collates packed rows; positions restart with each example, so none attends to another."""

    def __init__(self, pad: int):
        self.pad = pad

    def __call__(self, rows: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, Tensor]:
        """Return a batch for SFTTrainer."""
        cpu = torch.device("cpu")
        tokens, _ = padded([row["input_ids"] for row in rows], self.pad, cpu)
        labels, _ = padded([row["labels"] for row in rows], IGNORE_INDEX, cpu)
        positions, _ = padded([row["positions"] for row in rows], 0, cpu)
        return {"input_ids": tokens, "labels": labels, "position_ids": positions}


class TrlRewardJob(_OfflineJob):
    """A reward model by RewardTrainer: a sequence classifier with one output."""

    def __init__(self, stage: PairStage, context: StageContext, own_job: Callable[[Any, StageContext], Any]):
        require_trl(stage.name)
        own = own_job(stage, context)
        lengths = [sum(map(len, full_sequences([pair]))) for pair in own.pairs.train]
        super().__init__(context, own, lengths)

    @property
    def module(self) -> nn.Module:
        """Our trunk and scalar head."""
        return self.own.net

    def _named(self, theirs: dict[str, Tensor]) -> dict[str, Tensor]:
        trunk = self.start.config.hugging_face().ours(theirs, headless=True)
        return {f"trunk.{n}": w for n, w in trunk.items()} | {"score": theirs["score.weight"][0]}

    def _make_trainer(self) -> "Trainer":
        from transformers import AutoModelForSequenceClassification

        place = self.export_start()
        model = AutoModelForSequenceClassification.from_pretrained(place, num_labels=1, dtype=torch.float32)
        nn.init.zeros_(model.score.weight)  # as our own does
        rows = [
            {"chosen_ids": list(better), "rejected_ids": list(worse)}
            for better, worse in (full_sequences([pair]) for pair in self.own.pairs.train)
        ]
        settings = {"max_length": None}
        return self._trainer("Reward", model, self.tokenizer(place), rows, self.places, settings)


class TrlDpoJob(_OfflineJob):
    """DPO by DPOTrainer."""

    def __init__(self, stage: Any, context: StageContext, own_job: Callable[[Any, StageContext], Any]):
        require_trl(stage.name, *(["peft"] if stage.lora else []))
        own = own_job(stage, context)
        lengths = [sum(map(len, full_sequences([pair]))) for pair in own.pairs.train]
        super().__init__(context, own, lengths)
        # TRL's rewards are beta times the reported values.
        self.names = {
            "rewards/accuracies": ("accuracy", 1.0),
            "rewards/margins": ("margin", 1 / stage.beta),
            "rewards/chosen": ("logp_chosen_change", 1 / stage.beta),
            "logps/chosen": ("logp_chosen", 1.0),
            "logps/rejected": ("logp_rejected", 1.0),
        }

    @property
    def module(self) -> nn.Module:
        """Our network."""
        return self.own.network

    def _named(self, theirs: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.start.config.hugging_face().ours(theirs)

    def _make_trainer(self) -> "Trainer":
        from transformers import AutoModelForCausalLM

        stage, place = self.own.stage, self.export_start()
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
