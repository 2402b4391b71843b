"""Direct preference optimisation: preferences without a reward model.

    -log sigmoid(beta ((log p(c) - log p_ref(c)) - (log p(r) - log p_ref(r))))

c the better and r the worse answer, p the model, p_ref the model that it started as. The loss
asks for a margin only: the log-probability of the better answer may fall while the margin, and
the accuracy of preference with it, rise ("likelihood displacement"). So both log-probabilities
are always in the journal, beside the worth of held-out answers that the model writes itself.
`sft_weight` adds the better answer's own loss, which holds its probability up.

Source: Rafailov et al. 2023, arXiv:2305.18290; Pang et al. 2024, arXiv:2404.19733 (the SFT term);
Razin et al. 2024, arXiv:2410.08847 (displacement).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from scalelab.config import NonNegative, Positive
from scalelab.evals.checkpoint import Checkpoint
from scalelab.evals.inputs import MODEL
from scalelab.model.network import Network
from scalelab.model.scalar_net import padded
from scalelab.posttrain import losses
from scalelab.posttrain.account import activation_bytes, held_bytes, trained_bytes
from scalelab.posttrain.base import Finished, Given, StageResult, Step, Work
from scalelab.posttrain.display import Display, headline
from scalelab.posttrain.judged import Judged
from scalelab.posttrain.networks import Adapter, Lora, Trainee, copied, merged, write_model
from scalelab.posttrain.order import epochs_of
from scalelab.posttrain.pairs import OnPairs, Pair, both_sides, pairs_of


class Dpo(OnPairs):
    """Learn from preferences directly."""

    kind: Literal["dpo"] = "dpo"
    """Names this method in STAGES."""
    leaves: ClassVar[str] = MODEL
    beta: Positive = 0.1
    """How strongly the model is held to the reference."""
    sft_weight: NonNegative = 0.0
    """Weight of the better answer's own loss, nats per token."""
    lora: Lora | None = None
    """Train low-rank changes only."""

    def most_rows(self) -> tuple[int | None, float]:
        """See Stage."""
        return self.rows_trained(), 4.0

    def baseline(self) -> str:
        """See Stage."""
        return self.start

    def display(self, result: StageResult) -> Display:
        """See Stage."""
        shown = ("held_out.accuracy", "held_out.gold", "held_out.preference_accuracy")
        return Display(headline(result, *shown))

    def work(self, given: Given) -> Work:
        """See Stage."""
        if self.backend == "trl":
            from scalelab.posttrain.offline_trl import DpoByTrl

            return DpoByTrl(self, given)
        return Preferring(self, given)


class Preferring:
    """DPO being done."""

    updates_within = 1

    def __init__(self, stage: Dpo, given: Given):
        self.stage, self.start = stage, given.assistant(stage.start)
        self.judged = Judged(given, self.start)
        self.pairs = pairs_of(given, stage.pairs, self.start, stage.examples)
        self.order = epochs_of(
            len(self.pairs.train), stage.batch, stage.epochs, stage.min_steps, given.seed
        )
        self.n_steps = len(self.order)
        self.eval_every = max(1, self.n_steps // 4)
        self.network = copied(self.start)
        self.adapter = Adapter(self.network, stage.lora, given.seed) if stage.lora else None
        module = self.adapter or self.network
        self.trainee = Trainee(module, module.kinds(), stage.rates, self.n_steps, stage.warmup)
        # The reference never changes, so it is asked once.
        self.reference = self._logps_of(self.start, self.pairs.train)
        self._reference_held_out = self._logps_of(self.start, self.pairs.held_out)
        n = sum(map(len, both_sides([*self.pairs.train, *self.pairs.held_out])))
        self._reference_flops = n * self.start.forward_flops

    def step(self, k: int) -> Step:
        """One update on the batch of step k."""
        batch = [self.pairs.train[i] for i in self.order[k]]
        chosen, rejected, n_chosen = self._sums(batch)
        reference = self.reference[self.order[k]].to(chosen)
        loss = losses.dpo(chosen, rejected, reference[:, 0], reference[:, 1], self.stage.beta)
        if self.stage.sft_weight:
            loss = loss - self.stage.sft_weight * chosen.sum() / n_chosen
        loss.backward()
        n = sum(2 * len(p.prompt) + len(p.chosen) + len(p.rejected) for p in batch)
        with torch.no_grad():
            margin = (chosen - reference[:, 0]) - (rejected - reference[:, 1])
        numbers = {
            "loss": float(loss.detach()),
            "accuracy": float((margin > 0).float().mean()),
            "margin": float(margin.mean()),
            "logp_chosen": float(chosen.detach().mean()),
            "logp_rejected": float(rejected.detach().mean()),
            "logp_chosen_change": float((chosen.detach() - reference[:, 0]).mean()),
            "grad_norm": self.trainee.update(k),
        }
        return Step(numbers, tokens=n, flops=n * self.start.train_flops)

    def _sums(self, batch: Sequence[Pair]) -> tuple[Tensor, Tensor, int]:
        """Summed log-probabilities of the answers, and tokens of the better ones."""
        sums, n = answer_logps(self.network, batch, self.start)
        chosen, rejected = sums.chunk(2)
        return chosen, rejected, n

    def evaluate(self) -> Step:
        """Held-out pairs by their margin, and held-out answers by their worth."""
        asked = self.judged.quick(self.judged.of(self.network))
        if not self.pairs.held_out:
            return asked
        now = self._logps_of(self.judged.of(self.network), self.pairs.held_out)
        n = sum(map(len, both_sides(self.pairs.held_out)))
        before = self._reference_held_out
        margin = (now - before)[:, 0] - (now - before)[:, 1]
        numbers = {
            "held_out.preference_accuracy": float((margin > 0).double().mean()),
            "held_out.logp_chosen": float(now[:, 0].mean()),
            "held_out.logp_rejected": float(now[:, 1].mean()),
            "held_out.logp_chosen_change": float((now - before)[:, 0].mean()),
        }
        return Step({**asked.numbers, **numbers}, flops=asked.flops + n * self.start.forward_flops)

    def _logps_of(self, model: Checkpoint, pairs: Sequence[Pair]) -> Tensor:
        """Log-probabilities of better and worse answers under a model, fp64, shape (n, 2)."""
        prompts = [len(p.prompt) for p in (*pairs, *pairs)]
        found = model.logprobs(both_sides(pairs))
        sums = [row[n - 1 :].sum() for row, n in zip(found, prompts, strict=True)]
        return torch.tensor(sums, dtype=torch.float64).view(2, -1).T

    def tensors(self) -> dict[str, Tensor]:
        """Weights and moments."""
        return self.trainee.tensors("model")

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """See Work."""
        self.trainee.restore("model", tensors)

    def finish(self, out: Path) -> Finished:
        """Write the model."""
        files = write_model(out, self.start, merged(self.network))
        longest = max(len(p.prompt) + max(len(p.chosen), len(p.rejected)) for p in self.pairs.train)
        return Finished(
            files=files,
            metrics={**self.pairs.counts(), "steps": self.n_steps},
            flops=self._reference_flops,
            flops_by={"reference": self._reference_flops},
            memory_bytes={
                "trained": trained_bytes(self.adapter or self.network, self.stage.rates),
                "reference": held_bytes(self.start.network),
                "activations": activation_bytes(self.start, 2 * self.stage.batch * longest),
            },
        )


def answer_logps(network: Network, batch: Sequence[Pair], start: Checkpoint) -> tuple[Tensor, int]:
    """Summed log-probability of each better answer, then of each worse one, shape (2 n,).

    The second is how many tokens the better answers have.
    """
    tokens, real = padded(both_sides(batch), start.chat.pad, start.device)
    for i, pair in enumerate([*batch, *batch]):
        real[i, : len(pair.prompt)] = 0
    logps = losses.token_logps(network(tokens[:, :-1]), tokens[:, 1:])
    return (logps * real[:, 1:]).sum(1), sum(len(p.chosen) for p in batch)
