"""RLOO and GRPO: learning from a reward without a critic, the steps made by TRL.

    group    several answers to the same prompt
    rloo     advantage = reward - mean reward of the others of its group; the price of leaving
             the reference is taken from the reward, summed over the answer
    grpo     advantage = (reward - mean) / deviation, within the group; the price is a term of the
             loss at every token

An answer's baseline is what the same model made of the same prompt, so there is no critic to
train and to hold. Everything else is as in PPO: the score is the conversations' gold measure or a
reward model's number, both are recorded where both are known, and an answer that was cut off
loses `cut_off`. Each update is on answers just written, once.

kl in the journal is that of a whole answer, in nats: for rloo the mean log-ratio, as for ppo, for
grpo the k3 estimate of losses.py, which is what its loss holds. At a price of 0 nobody asks the
reference, and it is not known.

Source: Ahmadian et al. 2024 (RLOO), arXiv:2402.14740; Shao et al. 2024 (GRPO), arXiv:2402.03300;
Yu et al. 2025 (DAPO), arXiv:2503.14476, for the mean over all tokens of a batch in grpo's loss.
Not here: PPO (ppo.py), what stages done by TRL share (by_trl.py).
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
from scalelab.evals.asking import room_for_answers
from scalelab.evals.inputs import MODEL, Input
from scalelab.posttrain.account import activation_bytes, held_bytes, trained_bytes
from scalelab.posttrain.base import Finished, Given, Rates, Stage, StageResult, Step, Work
from scalelab.posttrain.by_trl import ByTrl, refuse_without_trl, said
from scalelab.posttrain.display import Display
from scalelab.posttrain.judged import Judged
from scalelab.posttrain.networks import copied, merged, write_model
from scalelab.posttrain.ppo import (
    COURSE,
    GOLD,
    display_of_course,
    last_of_course,
    rows_of_course,
    start_and_reward,
)

if TYPE_CHECKING:
    from transformers import Trainer, TrainerState

PER_TOKEN_KL = "kl_per_token"
"""TRL's mean over the tokens of a batch."""


class InGroups(Stage):
    """Learn from a reward on several answers to each prompt. Members say how."""

    leaves: ClassVar[str] = MODEL
    start: str
    """The model that it begins with, which is the reference too."""
    reward: str = GOLD
    """The stage whose reward model scores; "gold": the conversations' own measure."""
    steps: Count = 80
    """Updates, each on answers written for it."""
    batch: Count = 64
    """Answers written for each."""
    group: Count = Field(default=4, ge=2)
    """Answers to the same prompt; the batch is made of whole groups."""
    kl: NonNegative
    """Price of leaving the reference."""
    cut_off: NonNegative = 1.0
    """What an answer loses that was cut off."""
    n_new: Count | None = None
    """Most tokens of an answer; None: what the longest prompt leaves of the context."""
    temperature: Positive = 1.0
    """Of the answers, and of the probabilities that are trained."""
    rates: Rates
    warmup: Fraction = 0.05
    policy_passes: ClassVar[float] = 3.0
    """Passes of the policy over an answer that it learns from: there and back."""

    @model_validator(mode="after")
    def _groups_are_whole(self) -> Self:
        if self.batch % self.group:
            raise ValueError(f"batch {self.batch} is not made of whole groups of {self.group}")
        return self

    def inputs(self) -> tuple[Input, ...]:
        """The model, and the reward model where there is one."""
        return start_and_reward(self.start, self.reward)

    def baseline(self) -> str:
        """See Stage."""
        return self.start

    def passes(self) -> dict[str, float]:
        """Passes forward through a model for each written token, by what they are for."""
        return {
            "write": 1.0,
            "policy": self.policy_passes,
            "reference": 1.0 if self.kl else 0.0,
            "reward": 0.0 if self.reward == GOLD else 1.0,
        }

    def most_rows(self) -> tuple[int | None, float]:
        """See Stage."""
        return self.steps * self.batch, sum(self.passes().values())

    def display(self, result: StageResult) -> Display:
        """See Stage."""
        return display_of_course(self.name, result)

    def work(self, given: Given) -> Work:
        """See Stage."""
        return GroupsByTrl(self, given)

    @abstractmethod
    def trl(self) -> tuple[str, dict[str, Any]]:
        """TRL's name of the method, and what is set for it alone."""


class Rloo(InGroups):
    """REINFORCE with the others of the group as baseline."""

    kind: Literal["rloo"] = "rloo"
    """Names this method in STAGES."""
    kl: NonNegative = 0.05
    """Price of a nat of log-ratio to the reference, taken from the reward."""
    policy_passes: ClassVar[float] = 4.0
    """TRL asks the policy once more before the update."""

    def trl(self) -> tuple[str, dict[str, Any]]:
        """See InGroups."""
        return "RLOO", {"normalize_advantages": False}


class Grpo(InGroups):
    """Rewards measured in deviations within the group."""

    kind: Literal["grpo"] = "grpo"
    """Names this method in STAGES."""
    kl: NonNegative = 0.04
    """Weight of the divergence from the reference at each token, in the loss."""

    def trl(self) -> tuple[str, dict[str, Any]]:
        """See InGroups."""
        return "GRPO", {"loss_type": "dapo", "scale_rewards": "group"}


class GroupsByTrl(ByTrl):
    """RLOO or GRPO being done."""

    def __init__(self, stage: InGroups, given: Given):
        refuse_without_trl(stage.name)
        start = given.assistant(stage.start)
        super().__init__(given, start, stage.rates, stage.warmup, stage.batch, stage.steps)
        self.stage, self.judged = stage, Judged(given, start)
        self.proxy = None if stage.reward == GOLD else given.reward_model(stage.reward)
        self.prompts = given.conversations.prompts(
            stage.steps * (stage.batch // stage.group), given.seed, stage.name
        )
        self.rows = [start.chat.prompt(prompt.messages) for prompt in self.prompts]
        self.room = room_for_answers(start, self.rows, stage.n_new)
        self.network = copied(start)

    @property
    def module(self) -> nn.Module:
        """The model."""
        return self.network

    def _named(self, theirs: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.start.config.hugging_face().ours(theirs)

    def _made(self) -> "Trainer":
        from transformers import AutoModelForCausalLM

        place, stage = self.exported(), self.stage
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
        """What answers are worth, in the form of TRL's reward functions.

        Args:
            prompts: Tokens of the prompt of each answer.
            completion_ids: Tokens of each answer, its end token included where it wrote one.
            place: Of each prompt among ours.
            log_metric: Takes note of a number.

        Raises:
            DataError: Gold is asked for, and the conversations have no such measure.
        """
        chat = self.start.chat
        answers = [chat.read(tokens) for tokens in completion_ids]
        gold = [
            self.given.conversations.gold(self.prompts[i], answer)
            for i, answer in zip(place, answers, strict=True)
        ]
        if self.proxy is None:
            if None in gold:
                raise DataError(
                    "these conversations have no gold measure to learn from",
                    where=f"stage {self.stage.name}: reward: gold",
                    fix="name a stage that trains a reward model: reward: NAME",
                )
            worth = gold
        else:
            whole = [[*p, *a] for p, a in zip(prompts, completion_ids, strict=True)]
            worth = self.proxy.score(whole).tolist()
            log_metric("proxy", float(np.mean(worth)))
        if None not in gold:
            log_metric("gold", float(np.mean(gold)))
        ended = [tokens[-1] == chat.end for tokens in completion_ids]
        scores = [w - self.stage.cut_off * (not e) for w, e in zip(worth, ended, strict=True)]
        log_metric("words", float(np.mean([len(answer.split()) for answer in answers])))
        log_metric("ended", float(np.mean(ended)))
        log_metric("score", float(np.mean(scores)))
        return scores

    def _said(self, logs: Mapping[str, Any]) -> dict[str, float]:
        numbers = said(logs, {"kl": (PER_TOKEN_KL, 1.0)})
        if PER_TOKEN_KL in numbers:
            numbers["kl"] = numbers[PER_TOKEN_KL] * logs["completions/mean_length"]
        return numbers

    def _course(self, state: "TrainerState") -> list[list[float]]:
        rows = [self._said(row) for row in state.log_history if "train_runtime" not in row]
        return [[row.get(name, np.nan) for name in COURSE[1:]] for row in rows]

    def _n_tokens(self, step: int, logs: Mapping[str, float]) -> int:
        return int(logs["num_tokens"])

    def _cost(self, state: "TrainerState") -> Step:
        n = float(state.num_input_tokens_seen)
        parts = {
            k: n * passes * self.start.forward_flops for k, passes in self.stage.passes().items()
        }
        return Step(tokens=n, flops=sum(parts.values()), flops_by=parts)

    def evaluate(self) -> Step:
        """Held-out answers by their worth."""
        return self.judged.quick(self.judged.of(self.network))

    def _record(self, out: Path) -> Finished:
        files = write_model(out, self.start, merged(self.network))
        held = held_bytes(self.start.network)
        return Finished(
            files=files,
            metrics={"steps": self.n_updates, **last_of_course(self.course)},
            tables={"course": rows_of_course(self.course)},
            memory_bytes={
                "policy": trained_bytes(self.network, self.stage.rates),
                "reference": held if self.stage.kl else 0,
                "reward": 0 if self.proxy is None else held_bytes(self.proxy.net),
                "activations": activation_bytes(self.start, self.stage.batch * self.start.seq_len),
            },
        )
