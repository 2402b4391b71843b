"""RLOO and GRPO: optimising a reward without a critic, with steps made by TRL.

    group    several answers to the same prompt
    rloo     advantage = reward - mean reward of the others of the group; the KL penalty is
             subtracted from the reward, summed over the answer
    grpo     advantage = (reward - mean) / standard deviation, within the group; the KL penalty is a
             term of the loss at every token

The baseline of an answer is the mean of the same model on the same prompt, so there is no critic.
Everything else is as in PPO: the score is the gold score of the conversations or that of a reward
model, both are recorded where both are known, and an answer that was cut off loses `cut_off`. Each
answer is used for one update.

`kl` in the journal is that of a whole answer, in nats: for rloo the mean log-ratio, as for ppo, for
grpo the k3 estimate of losses.py, which its loss contains. With kl: 0 the reference is not
evaluated, and `kl` is not known.

Source: Ahmadian et al. 2024 (RLOO), arXiv:2402.14740; Shao et al. 2024 (GRPO), arXiv:2402.03300;
Yu et al. 2025 (DAPO), arXiv:2503.14476, for the mean over all tokens of a batch in grpo's loss.
Not here: PPO (stages/ppo.py), the part shared by all stages with TRL (base.py).
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from scalelab.config import Count, Fraction, NonNegative, Positive
from scalelab.errors import DataError
from scalelab.evals.generation import answer_budget
from scalelab.evals.inputs import MODEL, Input
from scalelab.posttrain.base import (
    FinishedStage,
    OptimizerSetting,
    Stage,
    StageContext,
    StageJob,
    StageResult,
    StepResult,
)
from scalelab.posttrain.display import StageDisplay
from scalelab.posttrain.heldout_eval import HeldoutPrompts
from scalelab.posttrain.networks import copy_network, merged_weights, write_model
from scalelab.posttrain.stage_cost import activation_bytes, held_bytes, trained_bytes
from scalelab.posttrain.stages.ppo import (
    CURVE_COLUMNS,
    GOLD,
    curve_display,
    curve_rows,
    final_means,
    start_and_reward,
)
from scalelab.posttrain.trl.base import TrlJob, journal_numbers, require_trl

if TYPE_CHECKING:
    from transformers import Trainer, TrainerState

PER_TOKEN_KL = "kl_per_token"
"""Metric: TRL's mean over the tokens of a batch."""


class GroupStage(Stage):
    """Optimise a reward on groups of answers. Members define the method."""

    output_kind: ClassVar[str] = MODEL
    start: str
    """Stage whose model is trained; it is the reference too."""
    reward: str = GOLD
    """Stage whose reward model scores answers, or "gold" for the conversations' gold score."""
    steps: Count = 80
    """Number of updates, each on newly sampled answers."""
    batch: Count = 64
    """Answers sampled per update."""
    group: Count = Field(default=4, ge=2)
    """Answers per prompt; the batch is a multiple of it."""
    kl: NonNegative
    """Penalty for leaving the reference."""
    cut_off: NonNegative = 1.0
    """Penalty of an answer that was cut off."""
    n_new: Count | None = None
    """Most tokens per answer; None: the rest of the context after the longest prompt."""
    temperature: Positive = 1.0
    """Temperature of sampling and of the trained probabilities."""
    rates: OptimizerSetting
    warmup: Fraction = 0.05
    """Share of the updates over which the learning rate rises."""
    policy_passes: ClassVar[float] = 3.0
    """Forward passes of the policy per trained token; a backward pass counts as two."""

    @model_validator(mode="after")
    def _groups_are_whole(self) -> Self:
        if self.batch % self.group:
            raise ValueError(f"batch {self.batch} is not a multiple of group {self.group}")
        return self

    def inputs(self) -> tuple[Input, ...]:
        """Return the model, and the reward model if any."""
        return start_and_reward(self.start, self.reward)

    def baseline(self) -> str:
        """See Stage."""
        return self.start

    def passes(self) -> dict[str, float]:
        """Return the forward passes per sampled token, by purpose."""
        return {
            "write": 1.0,
            "policy": self.policy_passes,
            "reference": 1.0 if self.kl else 0.0,
            "reward": 0.0 if self.reward == GOLD else 1.0,
        }

    def max_rows(self) -> tuple[int | None, float]:
        """See Stage."""
        return self.steps * self.batch, sum(self.passes().values())

    def display(self, result: StageResult) -> StageDisplay:
        """See Stage."""
        return curve_display(self.name, result)

    def create_job(self, context: StageContext) -> StageJob:
        """See Stage."""
        return TrlGroupJob(self, context)

    @abstractmethod
    def trl(self) -> tuple[str, dict[str, Any]]:
        """Return TRL's name of the method and the settings specific to it."""


class Rloo(GroupStage):
    """REINFORCE leave-one-out: the other answers of the group are the baseline."""

    kind: Literal["rloo"] = "rloo"
    """Names this method in STAGES."""
    kl: NonNegative = 0.05
    """Penalty per nat of log-ratio to the reference, subtracted from the reward."""
    policy_passes: ClassVar[float] = 4.0
    """TRL evaluates the policy once more before the update."""

    def trl(self) -> tuple[str, dict[str, Any]]:
        """See GroupStage."""
        return "RLOO", {"normalize_advantages": False}


class Grpo(GroupStage):
    """Group-relative policy optimisation: rewards are standardised within the group."""

    kind: Literal["grpo"] = "grpo"
    """Names this method in STAGES."""
    kl: NonNegative = 0.04
    """Weight of the KL divergence from the reference at each token, in the loss."""

    def trl(self) -> tuple[str, dict[str, Any]]:
        """See GroupStage."""
        return "GRPO", {"loss_type": "dapo", "scale_rewards": "group"}


class TrlGroupJob(TrlJob):
    """Job of Rloo and Grpo."""

    def __init__(self, stage: GroupStage, context: StageContext):
        require_trl(stage.name)
        start = context.assistant(stage.start)
        super().__init__(context, start, stage.rates, stage.warmup, stage.batch, stage.steps)
        self.stage, self.heldout = stage, HeldoutPrompts(context, start)
        self.proxy = None if stage.reward == GOLD else context.reward_model(stage.reward)
        self.prompts = context.conversations.prompts(
            stage.steps * (stage.batch // stage.group), context.seed, stage.name
        )
        self.rows = [start.chat.prompt(prompt.messages) for prompt in self.prompts]
        self.room = answer_budget(start, self.rows, stage.n_new)
        self.network = copy_network(start)

    @property
    def module(self) -> nn.Module:
        """Our network."""
        return self.network

    def _named(self, theirs: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.start.config.hugging_face().ours(theirs)

    def _make_trainer(self) -> "Trainer":
        from transformers import AutoModelForCausalLM

        place, stage = self.export_start(), self.stage
        name, its_own = stage.trl()
        settings = {
            "beta": stage.kl,
            "num_generations": stage.group,
            "max_completion_length": self.room,
            "temperature": stage.temperature,
            "top_k": 0,
            "top_p": 1.0,
            "generation_kwargs": {"suppress_tokens": list(self.start.chat.never_written)},
            "num_iterations": 1,
            "shuffle_dataset": False,
            "mask_truncated_completions": False,
            "logging_steps": 1,
            **its_own,
        }
        return self._trainer(
            name,
            AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32),
            self.tokenizer(place),
            [{"prompt": row, "place": i} for i, row in enumerate(self.rows)],
            range(len(self.rows)),
            settings,
            reward_funcs=self.score,
        )

    def score(
        self,
        prompts: Sequence[Sequence[int]],
        completion_ids: Sequence[Sequence[int]],
        place: Sequence[int],
        log_metric: Callable[[str, float], None],
        **_: Any,
    ) -> list[float]:
        """Return the score of each answer, as a reward function of TRL.

        Args:
            prompts: Tokens of the prompt of each answer.
            completion_ids: Tokens of each answer, with the end token unless it was cut off.
            place: Index of each prompt in self.prompts.
            log_metric: Logs a number under a name.

        Raises:
            DataError: reward is gold, but the conversations have no gold score.
        """
        chat = self.start.chat
        answers = [chat.read(tokens) for tokens in completion_ids]
        gold = [
            self.context.conversations.gold(self.prompts[i], answer)
            for i, answer in zip(place, answers, strict=True)
        ]
        if self.proxy is None:
            if None in gold:
                raise DataError(
                    "these conversations have no gold score to train on",
                    where=f"stage {self.stage.name}: reward: gold",
                    fix="set reward to the name of a stage that trains a reward model",
                )
            values = gold
        else:
            whole = [[*p, *a] for p, a in zip(prompts, completion_ids, strict=True)]
            values = self.proxy.score(whole).tolist()
            log_metric("proxy", float(np.mean(values)))
        if None not in gold:
            log_metric("gold", float(np.mean(gold)))
        ended = [tokens[-1] == chat.end for tokens in completion_ids]
        scores = [v - self.stage.cut_off * (not e) for v, e in zip(values, ended, strict=True)]
        log_metric("words", float(np.mean([len(answer.split()) for answer in answers])))
        log_metric("ended", float(np.mean(ended)))
        log_metric("score", float(np.mean(scores)))
        return scores

    def _journal_numbers(self, logs: Mapping[str, Any]) -> dict[str, float]:
        numbers = journal_numbers(logs, {"kl": (PER_TOKEN_KL, 1.0)})
        if PER_TOKEN_KL in numbers:
            numbers["kl"] = numbers[PER_TOKEN_KL] * logs["completions/mean_length"]
        return numbers

    def _curve(self, state: "TrainerState") -> list[list[float]]:
        rows = [self._journal_numbers(row) for row in state.log_history if "train_runtime" not in row]
        return [[row.get(name, np.nan) for name in CURVE_COLUMNS[1:]] for row in rows]

    def _n_tokens(self, step: int, logs: Mapping[str, float]) -> int:
        return int(logs["num_tokens"])

    def _cost(self, state: "TrainerState") -> StepResult:
        n = float(state.num_input_tokens_seen)
        parts = {k: n * passes * self.start.forward_flops for k, passes in self.stage.passes().items()}
        return StepResult(tokens=n, flops=sum(parts.values()), flops_by=parts)

    def evaluate(self) -> StepResult:
        """Grade answers to held-out prompts."""
        return self.heldout.evaluate(self.heldout.as_checkpoint(self.network))

    def _record(self, out: Path) -> FinishedStage:
        files = write_model(out, self.start, merged_weights(self.network))
        held = held_bytes(self.start.network)
        return FinishedStage(
            files=files,
            metrics={"steps": self.n_updates, **final_means(self.curve)},
            tables={"course": curve_rows(self.curve)},
            memory_bytes={
                "policy": trained_bytes(self.network, self.stage.rates),
                "reference": held if self.stage.kl else 0,
                "reward": 0 if self.proxy is None else held_bytes(self.proxy.net),
                "activations": activation_bytes(self.start, self.stage.batch * self.start.seq_len),
            },
        )
