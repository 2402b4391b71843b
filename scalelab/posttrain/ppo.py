"""Proximal policy optimisation: answers are written, judged, and made likelier or less likely.

    each step   write an answer to each prompt with the policy as it is
                reward of token t   -kl (log p - log p_ref)(t), and the score at the last one
                advantages by GAE from a critic, then `epochs` passes of clipped updates

The score is the conversations' gold measure, or a reward model's number. Whichever is trained
on, both are recorded where both are known, because a policy that is pushed hard finds what its
reward overlooks: the proxy rises and gold falls, the further the policy is from its reference.
So KL, proxy and gold stand in the journal side by side.

The end token is a token like others: it has a log-probability, a value and an advantage. An
answer that was cut off for want of room loses `cut_off`.

Source: Schulman et al. 2017, arXiv:1707.06347; Ziegler et al. 2019, arXiv:1909.08593 (KL in the
reward); Huang et al. 2024, arXiv:2403.17031 (details); Gao et al. 2022, arXiv:2210.10760
(over-optimisation).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor

from scalelab.config import Count, Fraction, NonNegative, Positive
from scalelab.data.hashing import key
from scalelab.data.stream import permute
from scalelab.errors import DataError
from scalelab.evals.asking import ask
from scalelab.evals.conversations import Prompt
from scalelab.evals.inputs import MODEL, REWARD, Input
from scalelab.model.scalar_net import ScalarNet, padded
from scalelab.posttrain import losses
from scalelab.posttrain.account import activation_bytes, held_bytes, trained_bytes
from scalelab.posttrain.base import Finished, Given, Rates, Stage, StageResult, Step, Work
from scalelab.posttrain.display import Curve, Display, headline
from scalelab.posttrain.judged import Judged
from scalelab.posttrain.networks import Trainee, copied, merged, write_model

GOLD = "gold"
COURSE = ("step", "kl", "proxy", "gold", "words")
"""What the report draws of the way: one row a step."""


class Ppo(Stage):
    """Learn from a reward on answers that the model writes itself."""

    kind: Literal["ppo"] = "ppo"
    """Names this method in STAGES."""
    leaves: ClassVar[str] = MODEL
    start: str
    """The model that it begins with, which is the reference too."""
    reward: str = GOLD
    """The stage whose reward model scores; "gold": the conversations' own measure."""
    steps: Count = 80
    """Rounds of writing and learning."""
    batch: Count = 64
    """Answers written in each."""
    epochs: Count = 2
    """Passes over them."""
    minibatches: Count = 2
    """Updates of each pass."""
    kl: NonNegative = 0.05
    """Price of a nat of log-ratio to the reference, at every token."""
    gamma: Fraction = 1.0
    lam: Fraction = 0.95
    """GAE's trade of bias for variance."""
    clip: Positive = 0.2
    """Of the ratio and, around its old value, of the critic."""
    cut_off: NonNegative = 1.0
    """What an answer loses that was cut off."""
    n_new: Count | None = None
    """Most tokens of an answer; None: what its prompt leaves of the context."""
    rates: Rates
    critic_rates: Rates | None = None
    """The critic's; None: the policy's."""
    warmup: Fraction = 0.05

    @model_validator(mode="after")
    def _minibatches_are_full(self) -> Self:
        if self.batch % self.minibatches:
            raise ValueError(
                f"{self.batch} answers cannot be cut into {self.minibatches} equal minibatches"
            )
        return self

    def inputs(self) -> tuple[Input, ...]:
        """The model, and the reward model where there is one."""
        return start_and_reward(self.start, self.reward)

    def baseline(self) -> str:
        """See Stage."""
        return self.start

    def most_rows(self) -> tuple[int | None, float]:
        """See Stage."""
        reward = 0.0 if self.reward == GOLD else 1.0
        return self.steps * self.batch, 4.0 + reward + 6.0 * self.epochs

    def display(self, result: StageResult) -> Display:
        """See Stage."""
        return display_of_course(self.name, result)

    def work(self, given: Given) -> Work:
        """See Stage."""
        return Improving(self, given)


@dataclass(frozen=True, eq=False)
class Rollout:
    """One batch of written answers, aligned with the tokens that were to be predicted, (B, T)."""

    tokens: Tensor
    """Prompts and answers, shape (B, T + 1)."""
    mask: Tensor
    """1 at the answers' tokens, the end token included."""
    logps: Tensor
    reference: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor


class Improving:
    """PPO being done."""

    updates_within = 1

    def __init__(self, stage: Ppo, given: Given):
        self.stage, self.given = stage, given
        self.start = given.assistant(stage.start)
        self.conversations = given.conversations
        self.judged = Judged(given, self.start)
        self.proxy = None if stage.reward == GOLD else given.reward_model(stage.reward)
        self.prompts = given.conversations.prompts(
            stage.steps * stage.batch, given.seed, stage.name
        )
        self.n_steps, self.eval_every = stage.steps, max(1, stage.steps // 4)
        updates = stage.steps * stage.epochs * stage.minibatches
        self.network = copied(self.start)
        self.policy = Trainee(
            self.network, self.network.kinds(), stage.rates, updates, stage.warmup
        )
        self.critic_net = ScalarNet(copied(self.start))
        self.critic = Trainee(
            self.critic_net,
            self.critic_net.kinds(),
            stage.critic_rates or stage.rates,
            updates,
            stage.warmup,
        )
        self.course: list[list[float]] = []

    def step(self, k: int) -> Step:
        """Write, judge, learn."""
        stage = self.stage
        prompts = self.prompts[k * stage.batch : (k + 1) * stage.batch]
        policy = self.judged.of(self.network)
        answers, ended, written = ask(
            policy, prompts, n_new=stage.n_new, temperature=1.0,
            seed=self.given.seed * 1_000_003 + k,
        )  # fmt: skip
        rows = [self.start.chat.prompt(p.messages) for p in prompts]
        whole = [[*row, *new] for row, new in zip(rows, written, strict=True)]
        gold = [
            self.conversations.gold(p, answer) for p, answer in zip(prompts, answers, strict=True)
        ]
        proxy = None if self.proxy is None else self.proxy.score(whole)
        scores = self._scores(prompts, gold, proxy, ended)
        batch = self._rollout(whole, [len(row) for row in rows], scores)
        numbers = self._learn(batch, k)
        n_tokens = sum(map(len, whole))
        kl = ((batch.logps - batch.reference) * batch.mask).sum(1)
        numbers |= {
            "score": float(scores.mean()),
            "kl": float(kl.mean()),
            "kl_k3": float((losses.kl(batch.logps, batch.reference) * batch.mask).sum(1).mean()),
            "words": float(np.mean([len(answer.split()) for answer in answers])),
            "ended": float(np.mean(ended)),
        }
        if None not in gold:
            numbers["gold"] = float(np.mean(gold))
        if proxy is not None:
            numbers["proxy"] = float(proxy.mean())
        self.course.append([float(numbers.get(name, np.nan)) for name in COURSE[1:]])
        flops = self._flops(n_tokens)
        return Step(numbers, tokens=n_tokens, flops=sum(flops.values()), flops_by=flops)

    def _scores(
        self, prompts: Sequence[Prompt], gold: list, proxy: Tensor | None, ended: Sequence[bool]
    ) -> Tensor:
        if proxy is None and None in gold:
            raise DataError(
                "these conversations have no gold measure to learn from",
                where=f"stage {self.stage.name}: reward: gold",
                fix="name a stage that trains a reward model: reward: NAME",
            )
        scores = torch.tensor(gold) if proxy is None else proxy.clone()
        return scores - self.stage.cut_off * (~torch.tensor(ended)).float()

    def _rollout(
        self, whole: Sequence[Sequence[int]], n_prompt: Sequence[int], scores: Tensor
    ) -> Rollout:
        stage, device = self.stage, self.start.device
        tokens, real = padded(whole, self.start.chat.pad, device)
        for i, n in enumerate(n_prompt):
            real[i, :n] = 0
        mask, inputs, targets = real[:, 1:], tokens[:, :-1], tokens[:, 1:]
        with torch.no_grad():
            logps = losses.token_logps(self.network(inputs), targets)
            reference = losses.token_logps(self.start.network(inputs), targets)
            values = self.critic_net(inputs) * mask
        rewards = -stage.kl * (logps - reference) * mask
        last = mask.shape[1] - 1 - mask.flip(1).argmax(1)
        rewards[torch.arange(len(whole), device=device), last] += scores.to(device)
        advantages, returns = losses.advantages(rewards, values, mask, stage.gamma, stage.lam)
        return Rollout(
            tokens, mask, logps, reference, values, losses.whitened(advantages, mask), returns
        )

    def _learn(self, batch: Rollout, k: int) -> dict[str, float]:
        stage, sums, n = self.stage, {}, len(batch.tokens)
        size = -(-n // stage.minibatches)
        at = k * stage.epochs * stage.minibatches
        for epoch in range(stage.epochs):
            order = permute(np.arange(n), n, key(self.given.seed, k, epoch))
            for place in range(stage.minibatches):
                chosen = torch.from_numpy(order[place * size : (place + 1) * size])
                for name, value in self._update(batch, chosen, at).items():
                    sums[name] = sums.get(name, 0.0) + value
                at += 1
        found = {name: value / (stage.epochs * stage.minibatches) for name, value in sums.items()}
        counts = batch.mask > 0
        miss = (batch.returns - batch.values)[counts].var()
        spread = batch.returns[counts].var()
        if float(spread) > 0:
            found["explained_variance"] = float(1 - miss / spread)
        return found

    def _update(self, batch: Rollout, i: Tensor, at: int) -> dict[str, float]:
        """One update of policy and critic on some of the answers."""
        tokens, mask = batch.tokens[i], batch.mask[i]
        logits = self.network(tokens[:, :-1])
        logps = losses.token_logps(logits, tokens[:, 1:])
        loss, clipped = losses.policy(
            logps, batch.logps[i], batch.advantages[i], mask, self.stage.clip
        )
        with torch.no_grad():
            entropy = losses.masked_mean(losses.entropy(logits), mask)
        loss.backward()
        norm = self.policy.update(at)
        values = self.critic_net(tokens[:, :-1])
        value_loss = losses.value(values, batch.values[i], batch.returns[i], mask, self.stage.clip)
        value_loss.backward()
        self.critic.update(at)
        return {
            "loss": float(loss.detach()),
            "value_loss": float(value_loss.detach()),
            "entropy": float(entropy),
            "clipped": float(clipped),
            "grad_norm": norm,
        }

    def _flops(self, n_tokens: int) -> dict[str, float]:
        """Of a step, by what they were spent on."""
        forward, train = self.start.forward_flops * n_tokens, self.start.train_flops * n_tokens
        return {
            "write": forward,
            "policy": forward + self.stage.epochs * train,
            "critic": forward + self.stage.epochs * train,
            "reference": forward,
            "reward": 0.0 if self.proxy is None else forward,
        }

    def evaluate(self) -> Step:
        """Held-out answers by their worth."""
        return self.judged.quick(self.judged.of(self.network))

    def tensors(self) -> dict[str, Tensor]:
        """Weights and moments of policy and critic, and the way so far."""
        course = torch.tensor(self.course, dtype=torch.float64).reshape(-1, len(COURSE) - 1)
        both = self.policy.tensors("policy") | self.critic.tensors("critic")
        return both | {"course": course}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """See Work."""
        self.policy.restore("policy", tensors)
        self.critic.restore("critic", tensors)
        self.course = tensors["course"].tolist()

    def finish(self, out: Path) -> Finished:
        """Write the model."""
        files = write_model(out, self.start, merged(self.network))
        n_tokens = self.stage.batch * self.start.seq_len
        held = held_bytes(self.start.network)
        look = self.evaluate()
        # What this look cost stands among the metrics, and is not summed.
        looked = {**look.numbers, "flops": look.flops} if look.numbers else {}
        return Finished(
            files=files,
            metrics={"steps": self.n_steps, **last_of_course(self.course), **looked},
            tables={"course": rows_of_course(self.course)},
            memory_bytes={
                "policy": trained_bytes(self.network, self.stage.rates),
                "critic": trained_bytes(
                    self.critic_net, self.stage.critic_rates or self.stage.rates
                ),
                "reference": held,
                "reward": 0 if self.proxy is None else held_bytes(self.proxy.net),
                "activations": activation_bytes(self.start, n_tokens // self.stage.minibatches),
            },
        )


def start_and_reward(start: str, reward: str) -> tuple[Input, ...]:
    """Inputs of a stage that learns from a reward: the model, and the reward model if any."""
    return (Input(start, MODEL), *(() if reward == GOLD else (Input(reward, REWARD),)))


def display_of_course(name: str, result: StageResult) -> Display:
    """What is shown of a stage that learned from a reward: proxy and gold over KL."""
    rows = result.tables.get("course", [])
    return Display(
        headline=headline(result, "held_out.accuracy", "held_out.gold", "kl"),
        curve=Curve.of(name, rows, "estimated"),
    )


def rows_of_course(course: Sequence[Sequence[float]]) -> list[dict[str, float | None]]:
    """The way as rows of COURSE; what was not known is None."""
    return [
        {"step": i + 1, **{n: None if np.isnan(v) else v for n, v in zip(
            COURSE[1:], row, strict=True)}}
        for i, row in enumerate(course)
    ]  # fmt: skip


def last_of_course(course: Sequence[Sequence[float]]) -> dict[str, float]:
    """Means over the last tenth of the steps: one step alone is noisy."""
    rows = np.array(course[-max(1, len(course) // 10) :])
    means = zip(COURSE[1:], rows.mean(0), strict=True)
    return {name: float(value) for name, value in means if not np.isnan(value)}
