"""Direct preference optimisation: training on preferences without a reward model.

    -log sigmoid(beta ((log p(c) - log p_ref(c)) - (log p(r) - log p_ref(r))))

c is the chosen and r the rejected answer, p the model, p_ref the start model. The loss depends on
the margin only: the log-probability of the chosen answer may fall while the margin and the
preference accuracy rise ("likelihood displacement"). The journal therefore has both
log-probabilities, and the grades of held-out answers that the model generates. `sft_weight` adds
the loss of the chosen answer, which keeps its probability from falling.

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
from scalelab.posttrain.base import FinishedStage, StageContext, StageJob, StageResult, StepResult
from scalelab.posttrain.batch_order import epoch_batches
from scalelab.posttrain.display import StageDisplay, headline
from scalelab.posttrain.heldout_eval import HeldoutPrompts
from scalelab.posttrain.networks import (
    Lora,
    LoraAdapter,
    TrainableModel,
    copy_network,
    merged_weights,
    write_model,
)
from scalelab.posttrain.pairs import PAIR_COUNTS, Pair, PairStage, full_sequences, load_pairs
from scalelab.posttrain.stage_cost import activation_bytes, held_bytes, trained_bytes


class Dpo(PairStage):
    """Train on preference pairs directly."""

    kind: Literal["dpo"] = "dpo"
    """Names this method in STAGES."""
    output_kind: ClassVar[str] = MODEL
    beta: Positive = 0.1
    """Strength of the penalty for leaving the reference."""
    sft_weight: NonNegative = 0.0
    """Weight of the SFT loss of the chosen answer, in nats per token."""
    lora: Lora | None = None
    """Train low-rank updates only; None: all weights."""

    def max_rows(self) -> tuple[int | None, float]:
        """See Stage."""
        return self.rows_trained(), 4.0

    def baseline(self) -> str:
        """See Stage."""
        return self.start

    def display(self, result: StageResult) -> StageDisplay:
        """See Stage."""
        names = ("held_out.accuracy", "held_out.gold", "held_out.preference_accuracy")
        return StageDisplay(headline(result, *names, *PAIR_COUNTS))

    def create_job(self, context: StageContext) -> StageJob:
        """See Stage."""
        if self.backend == "trl":
            from scalelab.posttrain.trl.offline import TrlDpoJob

            return TrlDpoJob(self, context, DpoJob)
        return DpoJob(self, context)


class DpoJob:
    """Job of Dpo."""

    updates_within = 1

    def __init__(self, stage: Dpo, context: StageContext):
        self.stage, self.start = stage, context.assistant(stage.start)
        self.heldout = HeldoutPrompts(context, self.start)
        self.pairs = load_pairs(context, stage.pairs, self.start, stage.examples, stage.too_long)
        self.order = epoch_batches(
            len(self.pairs.train), stage.batch, stage.epochs, stage.min_steps, context.seed
        )
        self.n_steps = len(self.order)
        self.eval_every = max(1, self.n_steps // 4)
        self.network = copy_network(self.start)
        self.adapter = LoraAdapter(self.network, stage.lora, context.seed) if stage.lora else None
        module = self.adapter or self.network
        self.trainee = TrainableModel(module, module.kinds(), stage.rates, self.n_steps, stage.warmup)
        # The reference does not change, so its log-probabilities are computed once.
        self.reference = self._logps_of(self.start, self.pairs.train)
        self._reference_held_out = self._logps_of(self.start, self.pairs.held_out)
        n = sum(map(len, full_sequences([*self.pairs.train, *self.pairs.held_out])))
        self._reference_flops = n * self.start.forward_flops

    def step(self, k: int) -> StepResult:
        """Make one update on the batch of step k."""
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
        return StepResult(numbers, tokens=n, flops=n * self.start.train_flops)

    def _sums(self, batch: Sequence[Pair]) -> tuple[Tensor, Tensor, int]:
        """Return the answers' summed log-probabilities and the number of tokens of the chosen ones."""
        sums, n = answer_logps(self.network, batch, self.start)
        chosen, rejected = sums.chunk(2)
        return chosen, rejected, n

    def evaluate(self) -> StepResult:
        """Evaluate margins of held-out pairs and grade answers to held-out prompts."""
        graded = self.heldout.evaluate(self.heldout.as_checkpoint(self.network))
        if not self.pairs.held_out:
            return graded
        now = self._logps_of(self.heldout.as_checkpoint(self.network), self.pairs.held_out)
        n = sum(map(len, full_sequences(self.pairs.held_out)))
        before = self._reference_held_out
        margin = (now - before)[:, 0] - (now - before)[:, 1]
        numbers = {
            "held_out.preference_accuracy": float((margin > 0).double().mean()),
            "held_out.logp_chosen": float(now[:, 0].mean()),
            "held_out.logp_rejected": float(now[:, 1].mean()),
            "held_out.logp_chosen_change": float((now - before)[:, 0].mean()),
        }
        return StepResult({**graded.numbers, **numbers}, flops=graded.flops + n * self.start.forward_flops)

    def _logps_of(self, model: Checkpoint, pairs: Sequence[Pair]) -> Tensor:
        """Return log-probabilities of chosen and rejected answers, fp64, shape (n, 2)."""
        prompts = [len(p.prompt) for p in (*pairs, *pairs)]
        found = model.logprobs(full_sequences(pairs))
        sums = [row[n - 1 :].sum() for row, n in zip(found, prompts, strict=True)]
        return torch.tensor(sums, dtype=torch.float64).view(2, -1).T

    def tensors(self) -> dict[str, Tensor]:
        """Return weights and optimizer state."""
        return self.trainee.tensors("model")

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """See StageJob."""
        self.trainee.restore("model", tensors)

    def finish(self, out: Path) -> FinishedStage:
        """Write the model."""
        files = write_model(out, self.start, merged_weights(self.network))
        longest = max(len(p.prompt) + max(len(p.chosen), len(p.rejected)) for p in self.pairs.train)
        return FinishedStage(
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
    """Return the summed log-probability of each chosen, then each rejected answer, shape (2 n,).

    The second value is the number of tokens of the chosen answers.
    """
    tokens, real = padded(full_sequences(batch), start.chat.pad, start.device)
    for i, pair in enumerate([*batch, *batch]):
        real[i, : len(pair.prompt)] = 0
    logps = losses.token_logps(network(tokens[:, :-1]), tokens[:, 1:])
    return (logps * real[:, 1:]).sum(1), sum(len(p.chosen) for p in batch)
