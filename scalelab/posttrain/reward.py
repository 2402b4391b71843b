"""A reward model: one number for an answer, learned from which of two was preferred.

    P(chosen over rejected) = sigmoid(r_chosen - r_rejected)                    Bradley-Terry

The trunk is that of a model that answers; the number is read at the answer's end token. On pairs
that were held out the report says how often the better answer gets the higher number, and how
far the probabilities that it states come true (calibration: expected error over ten bins, and
the loss against that of a coin).

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
from scalelab.posttrain.account import activation_bytes, trained_bytes
from scalelab.posttrain.base import Finished, Given, StageResult, Step, Work
from scalelab.posttrain.display import Display, headline
from scalelab.posttrain.networks import Trainee, copied
from scalelab.posttrain.order import epochs_of
from scalelab.posttrain.pairs import OnPairs, both_sides, pairs_of

BINS = 10


class Reward(OnPairs):
    """Learn what is preferred, as a number."""

    kind: Literal["reward"] = "reward"
    """Names this method in STAGES."""
    leaves: ClassVar[str] = REWARD

    def most_rows(self) -> tuple[int | None, float]:
        """See Stage."""
        return self.rows_trained(), 3.0

    def display(self, result: StageResult) -> Display:
        """See Stage."""
        return Display(headline(result, "held_out.accuracy"))

    def work(self, given: Given) -> Work:
        """See Stage."""
        if self.backend == "trl":
            from scalelab.posttrain.offline_trl import RewardByTrl

            return RewardByTrl(self, given)
        return Valuing(self, given)


class Valuing:
    """A reward model being learned."""

    updates_within = 1

    def __init__(self, stage: Reward, given: Given):
        self.stage = stage
        self.start = given.assistant(stage.start)
        self.pairs = pairs_of(given, stage.pairs, self.start, stage.examples)
        self.order = epochs_of(
            len(self.pairs.train), stage.batch, stage.epochs, stage.min_steps, given.seed
        )
        self.n_steps = len(self.order)
        self.eval_every = max(1, self.n_steps // 4)
        self.net = ScalarNet(copied(self.start))
        self.trainee = Trainee(self.net, self.net.kinds(), stage.rates, self.n_steps, stage.warmup)

    def step(self, k: int) -> Step:
        """One update on the batch of step k."""
        batch = [self.pairs.train[i] for i in self.order[k]]
        rows = both_sides(batch)
        chosen, rejected = last_values(self.net, rows, self.start.device).chunk(2)
        loss = losses.reward(chosen, rejected)
        loss.backward()
        n = sum(map(len, rows))
        numbers = {
            "loss": float(loss.detach()),
            "accuracy": float((chosen > rejected).float().mean()),
            "grad_norm": self.trainee.update(k),
        }
        return Step(numbers, tokens=n, flops=n * self.start.train_flops)

    def evaluate(self) -> Step:
        """How held-out pairs come out."""
        if not self.pairs.held_out:
            return Step()
        model = self._model()
        scores = model.score(both_sides(self.pairs.held_out))
        chosen, rejected = scores.double().numpy().reshape(2, -1)
        n = sum(map(len, both_sides(self.pairs.held_out)))
        numbers = {f"held_out.{k}": v for k, v in calibration(chosen - rejected).items()}
        return Step(numbers, flops=n * self.start.forward_flops)

    def _model(self) -> RewardModel:
        return RewardModel(self.net, self.start.chat, self.start.seq_len)

    def tensors(self) -> dict[str, Tensor]:
        """Weights and moments."""
        return self.trainee.tensors("reward")

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """See Work."""
        self.trainee.restore("reward", tensors)

    def finish(self, out: Path) -> Finished:
        """Write the reward model."""
        files = self._model().write(out)
        longest = max(map(len, both_sides(self.pairs.train)))
        return Finished(
            files=files,
            metrics={**self.pairs.counts(), "steps": self.n_steps},
            memory_bytes={
                "trained": trained_bytes(self.net, self.stage.rates),
                "activations": activation_bytes(self.start, 2 * self.stage.batch * longest),
            },
        )


def last_values(net: ScalarNet, rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """The number at the last token of each row, shape (n,), with gradients."""
    tokens, mask = padded(rows, 0, device)
    last = mask.sum(1).long() - 1
    return net(tokens)[torch.arange(len(rows), device=device), last]


def calibration(margins: np.ndarray) -> dict[str, float]:
    """Accuracy, loss and expected calibration error of margins r_chosen - r_rejected, (n,).

    The stated probability of the preferred answer is folded to at least one half: a margin of
    either sign states how sure the model is of whichever answer it gives the higher number.
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
