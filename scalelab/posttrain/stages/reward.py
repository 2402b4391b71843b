"""A reward model: a score for an answer, trained on pairwise preferences.

    P(chosen over rejected) = sigmoid(r_chosen - r_rejected)                    Bradley-Terry

The trunk is that of a chat model; the score is read at the end token of the answer. Held-out pairs
give the accuracy (how often the chosen answer has the higher score) and the calibration of the
stated probabilities (expected calibration error over ten bins, and the loss, ln 2 for a coin).

Source: Bradley & Terry 1952; Ouyang et al. 2022, arXiv:2203.02155; Guo et al. 2017,
arXiv:1706.04599 (expected calibration error).
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from scalelab.evals.inputs import REWARD
from scalelab.evals.reward_model import RewardModel
from scalelab.model.scalar_net import ScalarNet, padded
from scalelab.posttrain import losses
from scalelab.posttrain.base import FinishedStage, StageContext, StageJob, StageResult, StepResult
from scalelab.posttrain.batch_order import epoch_batches
from scalelab.posttrain.display import StageDisplay, headline
from scalelab.posttrain.networks import TrainableModel, copy_network
from scalelab.posttrain.pairs import PAIR_COUNTS, PairStage, full_sequences, load_pairs
from scalelab.posttrain.stage_cost import activation_bytes, trained_bytes

BINS = 10
"""Bins of the expected calibration error."""


class Reward(PairStage):
    """Train a reward model on preference pairs."""

    kind: Literal["reward"] = "reward"
    """Names this method in STAGES."""
    output_kind: ClassVar[str] = REWARD

    def max_rows(self) -> tuple[int | None, float]:
        """See Stage."""
        return self.rows_trained(), 3.0

    def display(self, result: StageResult) -> StageDisplay:
        """See Stage."""
        return StageDisplay(headline(result, "held_out.accuracy", *PAIR_COUNTS))

    def create_job(self, context: StageContext) -> StageJob:
        """See Stage."""
        if self.backend == "trl":
            from scalelab.posttrain.trl.offline import TrlRewardJob

            return TrlRewardJob(self, context, RewardJob)
        return RewardJob(self, context)


class RewardJob:
    """Job of Reward."""

    updates_within = 1

    def __init__(self, stage: Reward, context: StageContext):
        self.stage = stage
        self.start = context.assistant(stage.start)
        self.pairs = load_pairs(context, stage.pairs, self.start, stage.examples, stage.too_long)
        self.order = epoch_batches(
            len(self.pairs.train), stage.batch, stage.epochs, stage.min_steps, context.seed
        )
        self.n_steps = len(self.order)
        self.eval_every = max(1, self.n_steps // 4)
        self.net = ScalarNet(copy_network(self.start))
        self.trainee = TrainableModel(self.net, self.net.kinds(), stage.rates, self.n_steps, stage.warmup)

    def step(self, k: int) -> StepResult:
        """Make one update on the batch of step k."""
        batch = [self.pairs.train[i] for i in self.order[k]]
        rows = full_sequences(batch)
        chosen, rejected = end_scores(self.net, rows, self.start.device).chunk(2)
        loss = losses.reward(chosen, rejected)
        loss.backward()
        n = sum(map(len, rows))
        numbers = {
            "loss": float(loss.detach()),
            "accuracy": float((chosen > rejected).float().mean()),
            "grad_norm": self.trainee.update(k),
        }
        return StepResult(numbers, tokens=n, flops=n * self.start.train_flops)

    def evaluate(self) -> StepResult:
        """Evaluate accuracy and calibration on held-out pairs."""
        if not self.pairs.held_out:
            return StepResult()
        model = self._model()
        scores = model.score(full_sequences(self.pairs.held_out))
        chosen, rejected = scores.double().numpy().reshape(2, -1)
        n = sum(map(len, full_sequences(self.pairs.held_out)))
        numbers = {f"held_out.{k}": v for k, v in calibration(chosen - rejected).items()}
        return StepResult(numbers, flops=n * self.start.forward_flops)

    def _model(self) -> RewardModel:
        return RewardModel(self.net, self.start.chat, self.start.seq_len)

    def tensors(self) -> dict[str, Tensor]:
        """Return weights and optimizer state."""
        return self.trainee.tensors("reward")

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """See StageJob."""
        self.trainee.restore("reward", tensors)

    def finish(self, out: Path) -> FinishedStage:
        """Write the reward model."""
        files = self._model().write(out)
        longest = max(map(len, full_sequences(self.pairs.train)))
        return FinishedStage(
            files=files,
            metrics={**self.pairs.counts(), "steps": self.n_steps},
            memory_bytes={
                "trained": trained_bytes(self.net, self.stage.rates),
                "activations": activation_bytes(self.start, 2 * self.stage.batch * longest),
            },
        )


def end_scores(net: ScalarNet, rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Return the score at the last token of each row, shape (n,), with gradients."""
    tokens, mask = padded(rows, 0, device)
    last = mask.sum(1).long() - 1
    return net(tokens)[torch.arange(len(rows), device=device), last]


def calibration(margins: np.ndarray) -> dict[str, float]:
    """Return accuracy, loss and expected calibration error of margins r_chosen - r_rejected, (n,).

    The stated probability is that of the answer with the higher score, so it is at least one half
    whatever the sign of the margin.
    """
    sure = 1 / (1 + np.exp(-np.abs(margins)))
    right = np.where(margins == 0, 0.5, margins > 0).astype(float)
    edges = np.clip(((sure - 0.5) * 2 * BINS).astype(int), 0, BINS - 1)
    error = sum(
        abs(sure[edges == b].mean() - right[edges == b].mean()) * (edges == b).mean()
        for b in np.unique(edges)
    )
    n = len(margins)
    found = {
        "accuracy": float(right.mean()),
        "loss": float(np.logaddexp(0, -margins).mean()),
        "calibration_error": float(error),
        "stated": float(sure.mean()),
    }
    if n > 1:
        found["accuracy_se"] = float(right.std(ddof=1) / math.sqrt(n))
    return found
