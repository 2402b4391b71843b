"""Proximal policy optimisation on answers that the policy samples.

    each step   sample an answer to each prompt from the current policy
                reward of token t   -kl (log p - log p_ref)(t), plus the score at the last token
                advantages by GAE from a critic, then `epochs` passes of clipped updates

The score is the gold score of the conversations or that of a reward model. Both are recorded where
both are known, whichever is trained on, because a strongly optimised policy exploits the errors of
its reward model: far from the reference the proxy rises and gold falls. The journal has KL, proxy
and gold for this reason.

The end token has a log-probability, a value and an advantage like any other token. An answer that
was cut off at the end of the context loses `cut_off`.

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
from scalelab.data.corpus.stream import permute
from scalelab.data.hashing import key
from scalelab.errors import DataError
from scalelab.evals.conversations.base import Prompt
from scalelab.evals.generation import generate_answers
from scalelab.evals.inputs import MODEL, REWARD, Input
from scalelab.model.scalar_net import ScalarNet, padded
from scalelab.posttrain import losses
from scalelab.posttrain.base import (
    FinishedStage,
    OptimizerSetting,
    Stage,
    StageContext,
    StageJob,
    StageResult,
    StepResult,
)
from scalelab.posttrain.display import ProxyGoldCurve, StageDisplay, headline
from scalelab.posttrain.heldout_eval import HeldoutPrompts
from scalelab.posttrain.networks import TrainableModel, copy_network, merged_weights, write_model
from scalelab.posttrain.stage_cost import activation_bytes, held_bytes, trained_bytes

GOLD = "gold"
"""Value of `reward` that selects the gold score of the conversations."""
CURVE_COLUMNS = ("step", "kl", "proxy", "gold", "words")
"""Columns of the training curve, one row per step."""


class Ppo(Stage):
    """Optimise a reward by PPO on answers that the model samples."""

    kind: Literal["ppo"] = "ppo"
    """Names this method in STAGES."""
    output_kind: ClassVar[str] = MODEL
    start: str
    """Stage whose model is trained; it is the reference too."""
    reward: str = GOLD
    """Stage whose reward model scores answers, or "gold" for the conversations' gold score."""
    steps: Count = 80
    """Number of rounds of sampling and training."""
    batch: Count = 64
    """Answers sampled per step."""
    epochs: Count = 2
    """Passes over the answers of a step."""
    minibatches: Count = 2
    """Updates per pass."""
    kl: NonNegative = 0.05
    """Penalty per nat of log-ratio to the reference, at every token."""
    gamma: Fraction = 1.0
    """Discount per token."""
    lam: Fraction = 0.95
    """GAE's trade-off of bias against variance."""
    clip: Positive = 0.2
    """Clipping range of the probability ratio and of the critic's change from its old value."""
    cut_off: NonNegative = 1.0
    """Penalty of an answer that was cut off."""
    n_new: Count | None = None
    """Most tokens per answer; None: the rest of the context after the prompt."""
    rates: OptimizerSetting
    critic_rates: OptimizerSetting | None = None
    """Optimizer settings of the critic; None: those of the policy."""
    warmup: Fraction = 0.05
    """Share of the updates over which the learning rate rises."""

    @model_validator(mode="after")
    def _minibatches_are_full(self) -> Self:
        if self.batch % self.minibatches:
            raise ValueError(f"batch {self.batch} is not a multiple of minibatches {self.minibatches}")
        return self

    def inputs(self) -> tuple[Input, ...]:
        """Return the model, and the reward model if any."""
        return start_and_reward(self.start, self.reward)

    def baseline(self) -> str:
        """See Stage."""
        return self.start

    def max_rows(self) -> tuple[int | None, float]:
        """See Stage."""
        reward = 0.0 if self.reward == GOLD else 1.0
        return self.steps * self.batch, 4.0 + reward + 6.0 * self.epochs

    def display(self, result: StageResult) -> StageDisplay:
        """See Stage."""
        return curve_display(self.name, result)

    def create_job(self, context: StageContext) -> StageJob:
        """See Stage."""
        return PpoJob(self, context)


@dataclass(frozen=True, eq=False)
class Rollout:
    """One batch of sampled answers, aligned with the predicted tokens, shape (B, T)."""

    tokens: Tensor
    """Prompts and answers, shape (B, T + 1)."""
    mask: Tensor
    """1 at the answers' tokens, the end token included."""
    logps: Tensor
    """Log-probabilities under the policy that sampled, nats."""
    reference: Tensor
    """Log-probabilities under the reference, nats."""
    values: Tensor
    """Values of the critic when the answers were sampled."""
    advantages: Tensor
    """Whitened advantages."""
    returns: Tensor
    """Targets of the critic."""


class PpoJob:
    """Job of Ppo."""

    updates_within = 1

    def __init__(self, stage: Ppo, context: StageContext):
        self.stage, self.context = stage, context
        self.start = context.assistant(stage.start)
        self.conversations = context.conversations
        self.heldout = HeldoutPrompts(context, self.start)
        self.proxy = None if stage.reward == GOLD else context.reward_model(stage.reward)
        self.prompts = context.conversations.prompts(stage.steps * stage.batch, context.seed, stage.name)
        self.n_steps, self.eval_every = stage.steps, max(1, stage.steps // 4)
        updates = stage.steps * stage.epochs * stage.minibatches
        self.network = copy_network(self.start)
        self.policy = TrainableModel(self.network, self.network.kinds(), stage.rates, updates, stage.warmup)
        self.critic_net = ScalarNet(copy_network(self.start))
        self.critic = TrainableModel(
            self.critic_net, self.critic_net.kinds(), stage.critic_rates or stage.rates, updates, stage.warmup
        )
        self.curve: list[list[float]] = []

    def step(self, k: int) -> StepResult:
        """Sample answers, score them and update policy and critic."""
        stage = self.stage
        prompts = self.prompts[k * stage.batch : (k + 1) * stage.batch]
        policy = self.heldout.as_checkpoint(self.network)
        answers, ended, written = generate_answers(
            policy, prompts, n_new=stage.n_new, temperature=1.0, seed=self.context.seed * 1_000_003 + k
        )
        rows = [self.start.chat.prompt(p.messages) for p in prompts]
        whole = [[*row, *new] for row, new in zip(rows, written, strict=True)]
        gold = [self.conversations.gold(p, answer) for p, answer in zip(prompts, answers, strict=True)]
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
        self.curve.append([float(numbers.get(name, np.nan)) for name in CURVE_COLUMNS[1:]])
        flops = self._flops(n_tokens)
        return StepResult(numbers, tokens=n_tokens, flops=sum(flops.values()), flops_by=flops)

    def _scores(
        self, prompts: Sequence[Prompt], gold: list, proxy: Tensor | None, ended: Sequence[bool]
    ) -> Tensor:
        if proxy is None and None in gold:
            raise DataError(
                "these conversations have no gold score to train on",
                where=f"stage {self.stage.name}: reward: gold",
                fix="set reward to the name of a stage that trains a reward model",
            )
        scores = torch.tensor(gold) if proxy is None else proxy.clone()
        return scores - self.stage.cut_off * (~torch.tensor(ended)).float()

    def _rollout(self, whole: Sequence[Sequence[int]], n_prompt: Sequence[int], scores: Tensor) -> Rollout:
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
        return Rollout(tokens, mask, logps, reference, values, losses.whitened(advantages, mask), returns)

    def _learn(self, batch: Rollout, k: int) -> dict[str, float]:
        stage, sums, n = self.stage, {}, len(batch.tokens)
        size = -(-n // stage.minibatches)
        at = k * stage.epochs * stage.minibatches
        for epoch in range(stage.epochs):
            order = permute(np.arange(n), n, key(self.context.seed, k, epoch))
            for place in range(stage.minibatches):
                chosen = torch.from_numpy(order[place * size : (place + 1) * size])
                for name, value in self._update(batch, chosen, at).items():
                    sums[name] = sums.get(name, 0.0) + value
                at += 1
        found = {name: value / (stage.epochs * stage.minibatches) for name, value in sums.items()}
        counts = batch.mask > 0
        residual = (batch.returns - batch.values)[counts].var()
        spread = batch.returns[counts].var()
        if float(spread) > 0:
            found["explained_variance"] = float(1 - residual / spread)
        return found

    def _update(self, batch: Rollout, i: Tensor, at: int) -> dict[str, float]:
        """Update policy and critic once on some of the answers."""
        tokens, mask = batch.tokens[i], batch.mask[i]
        logits = self.network(tokens[:, :-1])
        logps = losses.token_logps(logits, tokens[:, 1:])
        loss, clipped = losses.policy(logps, batch.logps[i], batch.advantages[i], mask, self.stage.clip)
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
        """Return the FLOPs of a step by purpose."""
        forward, train = self.start.forward_flops * n_tokens, self.start.train_flops * n_tokens
        return {
            "write": forward,
            "policy": forward + self.stage.epochs * train,
            "critic": forward + self.stage.epochs * train,
            "reference": forward,
            "reward": 0.0 if self.proxy is None else forward,
        }

    def evaluate(self) -> StepResult:
        """Grade answers to held-out prompts."""
        return self.heldout.evaluate(self.heldout.as_checkpoint(self.network))

    def tensors(self) -> dict[str, Tensor]:
        """Return weights and optimizer states of policy and critic, and the curve so far."""
        curve = torch.tensor(self.curve, dtype=torch.float64).reshape(-1, len(CURVE_COLUMNS) - 1)
        both = self.policy.tensors("policy") | self.critic.tensors("critic")
        return both | {"course": curve}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """See StageJob."""
        self.policy.restore("policy", tensors)
        self.critic.restore("critic", tensors)
        self.curve = tensors["course"].tolist()

    def finish(self, out: Path) -> FinishedStage:
        """Write the model."""
        files = write_model(out, self.start, merged_weights(self.network))
        n_tokens = self.stage.batch * self.start.seq_len
        held = held_bytes(self.start.network)
        last = self.evaluate()
        # The cost of this evaluation is a metric and not part of the total.
        evaluated = {**last.numbers, "flops": last.flops} if last.numbers else {}
        return FinishedStage(
            files=files,
            metrics={"steps": self.n_steps, **final_means(self.curve), **evaluated},
            tables={"course": curve_rows(self.curve)},
            memory_bytes={
                "policy": trained_bytes(self.network, self.stage.rates),
                "critic": trained_bytes(self.critic_net, self.stage.critic_rates or self.stage.rates),
                "reference": held,
                "reward": 0 if self.proxy is None else held_bytes(self.proxy.net),
                "activations": activation_bytes(self.start, n_tokens // self.stage.minibatches),
            },
        )


def start_and_reward(start: str, reward: str) -> tuple[Input, ...]:
    """Return the inputs of a stage that optimises a reward: the model, and any reward model."""
    return (Input(start, MODEL), *(() if reward == GOLD else (Input(reward, REWARD),)))


def curve_display(name: str, result: StageResult) -> StageDisplay:
    """Return what reports show of a stage that optimises a reward: proxy and gold against KL."""
    rows = result.tables.get("course", [])
    return StageDisplay(
        headline=headline(result, "held_out.accuracy", "held_out.gold", "kl"),
        curve=ProxyGoldCurve.of(name, rows, "estimated"),
    )


def curve_rows(curve: Sequence[Sequence[float]]) -> list[dict[str, float | None]]:
    """Return the curve as rows of CURVE_COLUMNS; unknown values are None."""
    return [
        {
            "step": i + 1,
            **{n: None if np.isnan(v) else v for n, v in zip(CURVE_COLUMNS[1:], row, strict=True)},
        }
        for i, row in enumerate(curve)
    ]


def final_means(curve: Sequence[Sequence[float]]) -> dict[str, float]:
    """Return means over the last tenth of the steps, because single steps are noisy."""
    rows = np.array(curve[-max(1, len(curve) // 10) :])
    means = zip(CURVE_COLUMNS[1:], rows.mean(0), strict=True)
    return {name: float(value) for name, value in means if not np.isnan(value)}
