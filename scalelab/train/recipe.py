"""A recipe: a way of making a model of any size. What a law describes, and what is launched.

It holds the data, the family of shapes, and every hyperparameter as a number or as a rule in N, D
and the rest of a run's scale (rules.py):

    batch_tokens = the batch's rule, to the nearest power of two of windows
    n_steps      = D / batch_tokens, to the nearest whole step
    optimizer    = the optimizer's own rules at that scale and batch (optimizers/), times the multipliers
                   of the recipe's `param` (parametrization.py), which change the model too
    schedule     = likewise

Rounding means that what is trained is not quite what was asked for: plans carry both numbers.

With `schedule: {kind: wsd, trunk: true}` the runs of one size and seed are branches of one trunk, so all that
decides their common steps is settled once for a size:

    batch, rates   by their rules at sqrt(D_min D_max), the middle of the size's token counts on a log scale:
                   for a power rule no branch is further from its own batch than (D_max / D_min)^(x/2)
    warmup         its share of the shortest branch

A rule of the rate that follows the tokens (a horizon) cannot be followed along a trunk: it is read at the
middle too.

Not here: which sizes to train (sweep/).
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from scalelab.config import Config, Count, plugin, refuse_arithmetic
from scalelab.config_errors import ValueAtKey
from scalelab.data.base import DataConfig
from scalelab.errors import ConfigError
from scalelab.model import ARCHITECTURES
from scalelab.model.base import SMALLEST_VOCABULARY, Architecture
from scalelab.model.sizing import nearest
from scalelab.train import FIRST_OPTIMIZER, OPTIMIZERS, RULES, SCHEDULES
from scalelab.train.optimizers.base import Optimizer
from scalelab.train.parametrization import SOURCES, Multipliers, Parametrization, multipliers
from scalelab.train.rules import BatchRule, Rule, Scale, UnresolvedPlugin, decided, ruled, whole_batch
from scalelab.train.rules.family_checks import mismatches, mismatches_by_place, provenance, range_warnings
from scalelab.train.rules.resolution import rule_words
from scalelab.train.schedule import WSD
from scalelab.train.spec import (
    AttentionChoice,
    CompileMode,
    CrossEntropy,
    CudaGraphs,
    EvalSpec,
    Matmul,
    ParamCount,
    RunSpec,
    refuse_cooldown_of_data,
    refuse_long_context,
)


class RunRequest(NamedTuple):
    """One run that is asked of a recipe."""

    model: Architecture
    n_tokens: float
    """Wanted training tokens."""
    seed: int


class Recipe(Config):
    """Everything that is the same, or follows the same rule, at every size."""

    data: DataConfig
    seq_len: Count
    """Tokens a model sees at once."""
    model: plugin(ARCHITECTURES, "family")
    param_count: ParamCount = "total"
    """Which count is this recipe's N: in sizes, in tables, and in the fit by default."""
    optimizer: ruled(OPTIMIZERS, "recipe", FIRST_OPTIMIZER)
    batch: plugin(RULES, default="batch") = BatchRule()
    """Rule for the tokens of a step."""
    schedule: ruled(SCHEDULES) = WSD()
    min_steps: Count = 100
    """Shorter runs are refused: they measure the warmup."""
    evaluation: EvalSpec = EvalSpec()
    precision: Literal["auto", "fp32", "bf16"] = Field("auto")
    """See RunSpec."""
    compile: CompileMode = Field("auto", json_schema_extra={"since": 2})
    """See RunSpec."""
    cross_entropy: CrossEntropy = Field("auto", json_schema_extra={"since": 2})
    """See RunSpec."""
    attention: AttentionChoice = Field("auto", json_schema_extra={"since": 2})
    """See RunSpec."""
    cuda_graphs: CudaGraphs = Field("auto", json_schema_extra={"since": 2})
    """See RunSpec."""
    param: Parametrization = Field("standard", json_schema_extra={"since": 4})
    """How starting values, rates, decays and branches follow width and depth (parametrization.py). standard: as the
    optimizer's own settings say. mup and completep start from its width_ref, and completep from its depth_ref."""
    matmul: Matmul = Field("plain", json_schema_extra={"since": 3})
    """See RunSpec."""
    override: Annotated[str, Field(strict=True, min_length=1)] | None = Field(
        None, json_schema_extra={"since": 3}
    )
    """Reason for rules that do not belong together, or not to this optimizer. Without one such a
    recipe is refused; with one it stands in every plan."""

    @model_validator(mode="after")
    def _param_fits(self) -> Self:
        if self.param == "standard":
            return self
        given = self.optimizer.model_fields_set
        problem = None
        if self.param not in getattr(OPTIMIZERS[self.optimizer.kind].recipe, "parametrizations", ()):
            problem = f"is defined for adamw, and the optimizer is {self.optimizer.kind}"
        elif not ARCHITECTURES[self.model.kind].has_multipliers:
            problem = f"needs a model with multipliers, and {self.model.kind} has none"
        elif (obstacle := self.model.width_obstacle()) is not None:
            problem = obstacle
        elif "width_ref" not in given:
            problem = "needs recipe.optimizer.width_ref, the width at which its multipliers are 1"
        elif self.param == "completep" and getattr(self.optimizer, "depth_ref", None) is None:
            problem = "needs recipe.optimizer.depth_ref, the depth at which its multipliers are 1"
        elif "width_exponent" in given and self.optimizer.width_exponent != 1.0:
            words = f"recipe.optimizer.width_exponent is {self.optimizer.width_exponent}"
            problem = f"lets rates of matrices fall as 1 / width, and {words}"
        elif getattr(self.optimizer, "groups", ()):
            problem = "has multipliers for the roles of weights, and recipe.optimizer.groups names others"
        if problem is not None:
            raise ValueAtKey(
                f"param {self.param} {problem}",
                key=("param",),
                fix="change that setting, or set recipe.param to standard",
            )
        return self

    @model_validator(mode="after")
    def _context_can_be_read(self) -> Self:
        refuse_long_context(self.seq_len, next(iter(self.model.members(SMALLEST_VOCABULARY))))
        return self

    @model_validator(mode="after")
    def _data_and_schedule_fit(self) -> Self:
        refuse_cooldown_of_data(self.data, has_cooldown=bool(getattr(self.schedule, "cooldown", 0)))
        return self

    @model_validator(mode="after")
    def _count_is_chosen(self) -> Self:
        size = next(iter(self.model.members(SMALLEST_VOCABULARY))).size(1)
        if size.is_sparse and "param_count" not in self.model_fields_set:
            raise ValueAtKey(
                f"a token of a {self.model.kind} uses a part of its parameters, and no param_count says which of them "
                "are N",
                key=("param_count",),
                fix="add `param_count: active` for those that a token uses, or `param_count: total` for all",
            )
        return self

    @model_validator(mode="after")
    def _rules_belong_together(self) -> Self:
        if (found := mismatches_by_place(self)) and not (self.override or "").strip():
            raise ValueAtKey(
                "; ".join(phrase for _, phrase in found),
                key=tuple(found[0][0].split(".")),
                fix="take the rules of one family with its optimizer, or give a reason as `override` in the recipe",
            )
        return self

    def model_at(self, n_params: float, vocab_size: int) -> Architecture:
        """The family's member nearest to a target size. Raises ConfigError where none is near."""
        return nearest(self.model, n_params, self.param_count, vocab_size)

    def scale(self, model: Architecture, n_tokens: float) -> Scale:
        """What rules read of a run: this model on so many tokens, and the batch that follows.

        Raises:
            ConfigError: The rule of the batch gives no positive number.
        """
        size = model.size(self.seq_len)
        with refuse_arithmetic("the batch", "recipe.batch", "change the rule of the batch"):
            before = Scale(
                n_params=size.count(self.param_count),
                n_tokens=n_tokens,
                width=model.width(),
                depth=model.depth(),
                flops=size.flops_per_token * n_tokens,
                body_params=size.n_params_non_embedding,
                body_flops=(size.flops_per_token - 6 * model.blocks().vocabulary) * n_tokens,
            )
            return before.with_batch(whole_batch(self.batch, before, self.seq_len))

    def multipliers(self, scale: Scale) -> Multipliers:
        """The multipliers of the recipe's `param` at a scale whose batch is settled."""
        optimizer = decided(self.optimizer, scale)
        width_ref = getattr(optimizer, "width_ref", None) or scale.width
        depth_ref = getattr(optimizer, "depth_ref", None) or scale.depth
        return multipliers(
            self.param,
            width=scale.width / width_ref,
            depth=scale.depth / depth_ref,
            width_exponent=getattr(optimizer, "width_exponent", 0.0),
        )

    def _scaled(self, model: Architecture, settled: Scale) -> tuple[Architecture, Optimizer]:
        """The model and its optimizer with the multipliers of `param`."""
        if self.param == "standard":
            return model, decided(self.optimizer, settled).at(settled)
        found = self.multipliers(settled)
        # The rates without any rule of width, which is what multipliers are factors on.
        unscaled = decided(self.optimizer.model_copy(update={"width_exponent": 0.0}), settled)
        model = model.with_multipliers(
            residual=found.residual,
            output=found.output,
            residual_depth=unscaled.depth_ref if self.param == "completep" else None,
        )
        return model, unscaled.at(settled).with_multipliers(found)

    def spec(self, model: Architecture, n_tokens: float, *, data_digest: str, seed: int) -> RunSpec:
        """One run of this recipe, by itself: this model on as near to n_tokens as whole steps allow.

        Args:
            model: The model.
            n_tokens: Wanted training tokens.
            data_digest: Digest of the corpus.
            seed: Seed of the run.

        Raises:
            ConfigError: The run would be shorter than min_steps, or a rule gives a number that
                cannot be.
        """
        return self._spec(RunRequest(model, n_tokens, seed), self.scale(model, n_tokens), data_digest)

    @property
    def has_trunks(self) -> bool:
        """Whether runs of one size and seed are branches of one trunk."""
        return getattr(self.schedule, "trunk", False) is True

    @property
    def schedule_words(self) -> str:
        """Kind of the schedule, and how it comes down, by a share or by a rule: runs that differ in it are no
        points of one law. The numbers that a rule gives differ within one recipe, so the rule is named instead.
        """
        schedule = self.schedule
        member = schedule.decides if isinstance(schedule, UnresolvedPlugin) else type(schedule)
        if not issubclass(member, WSD):
            return schedule.kind
        share = schedule.cooldown
        words = f"by {rule_words(share)}" if isinstance(share, Rule) else f"{share:g}"
        return f"{schedule.kind}, cooldown {words}, {schedule.shape}"

    def specs(self, asked: Iterable[RunRequest], *, data_digest: str) -> tuple[RunSpec, ...]:
        """Runs that are asked for together: branches of trunks where the recipe has them, else as spec gives them.

        Args:
            asked: All runs of a design. The token counts of a size settle its batch, rates and warmup, for
                every seed.
            data_digest: Digest of the corpus.

        Raises:
            ConfigError: As spec.
        """
        asked = tuple(asked)
        if not self.has_trunks:
            return tuple(self.spec(a.model, a.n_tokens, data_digest=data_digest, seed=a.seed) for a in asked)
        counts: dict[Architecture, list[float]] = {}
        for each in asked:
            counts.setdefault(each.model, []).append(each.n_tokens)
        middle = {
            model: self.scale(model, math.sqrt(min(found) * max(found))) for model, found in counts.items()
        }
        return tuple(
            self._spec(each, middle[each.model], data_digest, shortest=min(counts[each.model]))
            for each in asked
        )

    def _spec(
        self, asked: RunRequest, settled: Scale, data_digest: str, shortest: float | None = None
    ) -> RunSpec:
        """One run at the batch and the rates of a scale; a branch where the shortest one's tokens are given."""
        n_steps = round(asked.n_tokens / settled.batch_tokens)
        words = replace(settled, n_tokens=asked.n_tokens).words()
        if settled.batch_tokens > asked.n_tokens:
            raise ConfigError(
                f"the batch of {settled.batch_tokens:,} tokens is larger than the run: {words}",
                where=f"recipe.batch: by {self.batch.kind}",
                fix="raise the budget, or change recipe.batch so that it gives fewer tokens there",
            )
        if n_steps < self.min_steps:
            raise ConfigError(
                f"a run of {words} has {n_steps} steps, fewer than min_steps {self.min_steps}",
                where=f"recipe.batch: {settled.batch_tokens} tokens a step",
                fix="raise the budget, ask for smaller models, or lower recipe.batch.min_tokens",
            )
        with refuse_arithmetic(
            f"a run of {words}", "recipe.optimizer, recipe.batch", "change the numbers that it names"
        ):
            schedule = decided(self.schedule, settled)
            if shortest is not None:
                schedule = schedule.branch(round(shortest / settled.batch_tokens))
            elif isinstance(schedule, WSD):
                schedule = schedule.alone() if schedule.trunk else schedule
            if isinstance(schedule, WSD) and (problem := schedule.problem(n_steps)):
                raise ConfigError(
                    f"a run of {words}: {problem}",
                    where="recipe.schedule",
                    fix="lower recipe.schedule.warmup_steps, or raise the budget",
                )
            model, optimizer = self._scaled(asked.model, settled)
            return RunSpec(
                data=self.data,
                data_digest=data_digest,
                seq_len=self.seq_len,
                model=model,
                optimizer=optimizer,
                schedule=schedule,
                batch_tokens=settled.batch_tokens,
                n_steps=n_steps,
                evaluation=self.evaluation,
                precision=self.precision,
                compile=self.compile,
                cross_entropy=self.cross_entropy,
                attention=self.attention,
                cuda_graphs=self.cuda_graphs,
                matmul=self.matmul,
                seed=asked.seed,
            )

    def rule_notes(self, scales: Iterable[Scale]) -> list[str]:
        """Return notes on the rules for a plan: sources, unchecked constants, extrapolation, mixed families.

        Args:
            scales: The runs that are planned.
        """
        notes = [f"{place}: {words}" for place, words in provenance(self).items()]
        if self.param != "standard":
            notes.insert(0, f"param: {self.param} ({SOURCES[self.param]}).")
        notes += range_warnings(self, scales)
        if found := mismatches(self):
            notes.append(f"Rules do not belong together ({'; '.join(found)}); reason given: {self.override}")
        return notes

    def describe(self) -> str:
        """The recipe in one line, for a plan."""
        return (
            f"{self.model.kind}, N counted as {self.param_count}, context {self.seq_len}, "
            f"{self.optimizer.summary()}" + ("" if self.param == "standard" else f", param {self.param}")
        )
