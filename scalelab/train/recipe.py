"""A recipe: a way of making a model of any size. What a law describes, and what is launched.

It holds the data, the family of shapes, and every hyperparameter as a number or as a rule in N, D
and the rest of a run's scale (rules.py):

    batch_tokens = the batch's rule, to the nearest power of two of windows
    n_steps      = D / batch_tokens, to the nearest whole step
    optimizer    = the optimizer's own rules at that scale and batch (optimizers/)
    schedule     = likewise

Rounding means that what is trained is not quite what was asked for: plans carry both numbers.

Not here: which sizes to train (sweep/).
"""

from typing import Literal

from pydantic import Field

from scalelab.config import Config, Count, plugin
from scalelab.data.base import DataConfig
from scalelab.errors import ConfigError
from scalelab.model import ARCHITECTURES
from scalelab.model.base import Architecture
from scalelab.model.sizing import nearest
from scalelab.train import FIRST_OPTIMIZER, OPTIMIZERS, RULES, SCHEDULES
from scalelab.train.rules import BatchRule, Scale, decided, ruled, whole_batch
from scalelab.train.schedule import WSD
from scalelab.train.spec import EvalSpec, ParamCount, RunSpec


class Recipe(Config):
    """Everything that is the same, or follows the same rule, at every size."""

    data: DataConfig
    seq_len: Count
    """Tokens a model sees at once."""
    model: plugin(ARCHITECTURES, "family")
    param_count: ParamCount = "total"
    """Which count is this recipe's N: in sizes, in tables, and in the fit unless told otherwise."""
    optimizer: ruled(OPTIMIZERS, "recipe", FIRST_OPTIMIZER)
    batch: plugin(RULES, default="batch") = BatchRule()
    """Rule for the tokens of a step."""
    schedule: ruled(SCHEDULES) = WSD()
    min_steps: Count = 100
    """Shorter runs are refused: they measure the warmup."""
    evaluation: EvalSpec = EvalSpec()
    precision: Literal["auto", "fp32", "bf16"] = Field("auto")
    """See RunSpec."""

    def model_at(self, n_params: float, vocab_size: int) -> Architecture:
        """The family's member nearest to a target size. Raises ConfigError where none is near."""
        return nearest(self.model, n_params, self.param_count, vocab_size)

    def scale(self, model: Architecture, n_tokens: float) -> Scale:
        """What rules read of a run: this model on so many tokens, and the batch that follows.

        Raises:
            ConfigError: The rule of the batch gives no positive number.
        """
        size = model.size(self.seq_len)
        before = Scale(
            n_params=size.count(self.param_count),
            n_tokens=n_tokens,
            width=model.width(),
            depth=model.depth(),
            flops=size.flops_per_token * n_tokens,
        )
        return before.with_batch(whole_batch(self.batch, before, self.seq_len))

    def spec(self, model: Architecture, n_tokens: float, *, data_digest: str, seed: int) -> RunSpec:
        """One run of this recipe: this model on as near to n_tokens as whole steps allow.

        Raises:
            ConfigError: The run would be shorter than min_steps, or a rule gives a number that
                cannot be.
        """
        scale = self.scale(model, n_tokens)
        if scale.n_steps < self.min_steps:
            raise ConfigError(
                f"a run of {scale.words()} has {scale.n_steps} steps, "
                f"fewer than min_steps {self.min_steps}",
                where=f"recipe.batch: {scale.batch_tokens} tokens a step",
                fix="raise the budget, ask for smaller models, or lower recipe.batch.min_tokens",
            )
        return RunSpec(
            data=self.data,
            data_digest=data_digest,
            seq_len=self.seq_len,
            model=model,
            optimizer=decided(self.optimizer, scale).at(scale),
            schedule=decided(self.schedule, scale),
            batch_tokens=scale.batch_tokens,
            n_steps=scale.n_steps,
            evaluation=self.evaluation,
            precision=self.precision,
            seed=seed,
        )

    def describe(self) -> str:
        """The recipe in one line, for a plan."""
        return (
            f"{self.model.kind}, N counted as {self.param_count}, context {self.seq_len}, "
            f"{self.optimizer.summary()}"
        )
