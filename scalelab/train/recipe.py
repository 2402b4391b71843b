"""A recipe: a way of making a model of any size. What a law describes, and what is launched.

It holds the data, the family of shapes, and every hyperparameter as a rule in N and D:

    base         = lr * (batch_tokens / batch_ref)^batch_exponent
    lr_matrix    = base * (width_ref / width)^width_exponent
    lr_embedding = base * embedding_lr                              (head and gains alike)
    batch_tokens = coefficient * D^exponent, to the nearest power of two of windows, in [min, max]
    n_steps      = D / batch_tokens, to the nearest whole step

Rounding means that what is trained is not quite what was asked for: plans carry both numbers.

Sources: the 1/width rule for hidden matrices, Yang et al. 2022 (muP), arXiv:2203.03466; batch
as a power of D, Bergsma et al. 2025, arXiv:2505.13738; rate by the square root of the batch,
Malladi et al. 2022, arXiv:2205.10287. The constants are the recipe's own and must be tuned.

Not here: which sizes to train (the sweep room).
"""

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from scalelab.config import Config, Count, Fraction, NonNegative, Number, Positive, plugin
from scalelab.data.base import DataConfig
from scalelab.errors import ConfigError
from scalelab.model import ARCHITECTURES
from scalelab.model.base import Architecture
from scalelab.model.sizing import nearest
from scalelab.train import SCHEDULES
from scalelab.train.schedule import WSD
from scalelab.train.spec import AdamWSpec, EvalSpec, ParamCount, RunSpec
from scalelab.units import sci, si


class OptimizerRule(Config):
    """AdamW's settings as functions of width and batch."""

    lr: Positive
    """Peak rate of hidden matrices at width_ref and batch_ref."""
    width_ref: Positive = 64
    """Width of the model at which hidden matrices get lr itself."""
    width_exponent: Number = 1.0
    """How fast the rate of hidden matrices falls with width; 1 is muP's, 0 none."""
    batch_ref: Positive = 1024
    """Tokens a step at which lr applies."""
    batch_exponent: Number = 0.5
    """How fast all rates rise with the batch."""
    embedding_lr: Positive = 1.0
    """Rate of the input embedding, as a multiple of lr. It does not fall with width."""
    head_lr: Positive = 1.0
    """Rate of the output head, likewise."""
    vector_lr: Positive = 1.0
    """Rate of the norms' gains, likewise."""
    beta1: Fraction = 0.9
    beta2: Fraction = 0.95
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.1
    grad_clip: Positive | None = 1.0

    def at(self, width: int, batch_tokens: int) -> AdamWSpec:
        """The rates of one run."""
        base = self.lr * (batch_tokens / self.batch_ref) ** self.batch_exponent
        return AdamWSpec(
            lr_matrix=base * (self.width_ref / width) ** self.width_exponent,
            lr_embedding=base * self.embedding_lr,
            lr_head=base * self.head_lr,
            lr_vector=base * self.vector_lr,
            beta1=self.beta1,
            beta2=self.beta2,
            eps=self.eps,
            weight_decay=self.weight_decay,
            grad_clip=self.grad_clip,
        )


class BatchRule(Config):
    """Tokens per optimizer step as a function of the tokens of the run."""

    coefficient: Positive = 0.9
    exponent: NonNegative = 0.5
    min_tokens: Count = 512
    max_tokens: Count = 2**22

    @model_validator(mode="after")
    def _range(self) -> Self:
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens {self.min_tokens} is over max_tokens {self.max_tokens}")
        return self

    def at(self, n_tokens: float, seq_len: int) -> int:
        """Tokens a step for a run of n_tokens: a power of two of whole windows."""
        wanted = self.coefficient * n_tokens**self.exponent
        within = min(max(wanted, self.min_tokens), self.max_tokens)
        return seq_len * 2 ** max(0, round(math.log2(within / seq_len)))


class Recipe(Config):
    """Everything that is the same, or follows the same rule, at every size."""

    data: DataConfig
    seq_len: Count
    """Tokens a model sees at once."""
    model: plugin(ARCHITECTURES, "family")
    param_count: ParamCount = "total"
    """Which count is this recipe's N: in sizes, in tables, and in the fit unless told otherwise."""
    optimizer: OptimizerRule
    batch: BatchRule = BatchRule()
    schedule: plugin(SCHEDULES) = WSD()
    min_steps: Count = 100
    """Shorter runs are refused: they measure the warmup."""
    evaluation: EvalSpec = EvalSpec()
    precision: Literal["auto", "fp32", "bf16"] = Field("auto")
    """See RunSpec."""

    def model_at(self, n_params: float, vocab_size: int) -> Architecture:
        """The family's member nearest to a target size. Raises ConfigError where none is near."""
        return nearest(self.model, n_params, self.param_count, vocab_size)

    def spec(self, model: Architecture, n_tokens: float, *, data_digest: str, seed: int) -> RunSpec:
        """One run of this recipe: this model on as near to n_tokens as whole steps allow.

        Raises:
            ConfigError: The run would be shorter than min_steps.
        """
        batch_tokens = self.batch.at(n_tokens, self.seq_len)
        n_steps = round(n_tokens / batch_tokens)
        if n_steps < self.min_steps:
            size = si(model.size(self.seq_len).count(self.param_count))
            raise ConfigError(
                f"a run of {size} parameters on {si(n_tokens)} tokens has {n_steps} steps, "
                f"fewer than min_steps {self.min_steps}",
                where=f"recipe.batch: {batch_tokens} tokens a step",
                fix="raise the budget, ask for smaller models, or lower recipe.batch.min_tokens",
            )
        return RunSpec(
            data=self.data,
            data_digest=data_digest,
            seq_len=self.seq_len,
            model=model,
            optimizer=self.optimizer.at(model.width(), batch_tokens),
            schedule=self.schedule,
            batch_tokens=batch_tokens,
            n_steps=n_steps,
            evaluation=self.evaluation,
            precision=self.precision,
            seed=seed,
        )

    def describe(self) -> str:
        """The recipe in one line, for a plan."""
        return (
            f"{self.model.kind}, N counted as {self.param_count}, context {self.seq_len}, "
            f"lr {sci(self.optimizer.lr)}"
        )
