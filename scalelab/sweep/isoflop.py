"""IsoFLOP slices: hold compute fixed, trade parameters for tokens.

    centre(C):  the N at which D = tokens_per_param * N spends C
    sizes:      N_k = centre(first budget) * ratio^k for whole k, so that slices share sizes;
                each slice takes the sizes_per_budget of them nearest to its own centre
    D:          C / flops_per_token(N), the exact count of the model that is built

The centre is a guess that only places the grid; the answer is where the valleys are. A slice
whose best model stands at its edge has no minimum, and the fit will say so.

Source: Hoffmann et al. 2022, Approach 2, arXiv:2203.15556. Spans of at most 4 to either side
keep the parabola's bias under 1.3% in D* (Czech et al. 2026, arXiv:2603.22339).
"""

import math
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from scalelab.config import LARGEST_SEED, Count, Flops, Positive, Seed, Whole, refuse_arithmetic
from scalelab.errors import ConfigError
from scalelab.model.base import Architecture
from scalelab.model.sizing import members
from scalelab.sweep.base import Proposal, StaticDesign
from scalelab.sweep.validation import with_validation
from scalelab.train.recipe import Recipe, RunRequest
from scalelab.train.spec import RunSpec
from scalelab.units import sci, si


class IsoFlopDesign(StaticDesign):
    """At each budget C, several sizes N, each trained on D = C / flops_per_token tokens."""

    takes_trunks: ClassVar[bool] = True

    kind: Literal["isoflop"] = "isoflop"

    budgets: tuple[Flops, ...] = Field(min_length=1)
    """Training compute of each slice, FLOPs, forward and backward."""
    sizes_per_budget: Count = 7
    """Runs of each slice. Three fix a parabola; the rest show whether it is one."""
    span: Positive = 12.0
    """Largest size of a slice over its smallest."""
    tokens_per_param: Positive = 20.0
    """Expected optimum of D / N. It centres the grid and enters no result."""
    seed: Seed = 0
    """Seed of every run but the replicates."""
    replicates: Whole = 0
    """Further seeds at the cells of replicate_at: they measure the noise between seeds, without which no
    difference means anything."""
    replicate_at: Literal["centre", "few_tokens"] = Field("centre", json_schema_extra={"since": 3})
    """Cells that have replicates. centre: the centre size of every second budget, from the first. few_tokens: the
    sizes above the centre at the lower half of the budgets, whose runs have the fewest tokens and the most noise."""
    validate_trunks: Whole = 0
    """Branches that are also trained separately, with the same cooldown, to compare; these runs are not fitted."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if list(self.budgets) != sorted(set(self.budgets)):
            raise ValueError(f"budgets must rise without repeats, not {list(self.budgets)}")
        if self.sizes_per_budget < 3:
            raise ValueError(f"{self.sizes_per_budget} sizes cannot show a minimum: 3 or more")
        if self.span <= 1:
            raise ValueError(f"span {self.span} leaves no room between sizes: over 1")
        if self.seed + self.replicates > LARGEST_SEED:
            raise ValueError(
                f"the seeds of {self.replicates} replicates after {self.seed} pass {LARGEST_SEED}"
            )
        return self

    def n_runs(self) -> int:
        """Return the number of runs of all slices, replicates, and those that validate."""
        slices = len(self.budgets)
        cells = (slices + 1) // 2 * (1 if self.replicate_at == "centre" else (self.sizes_per_budget - 1) // 2)
        return slices * self.sizes_per_budget + cells * self.replicates + self.validate_trunks

    def ask(self, recipe: Recipe, *, vocab_size: int, data_digest: str) -> tuple[Proposal, ...]:
        """Every run of every slice, then the replicates, then runs that validate branches.

        Raises:
            ConfigError: A size cannot be built, or two of a slice come out as one model.
        """
        with refuse_arithmetic(
            "the sizes", "design", "lower design.span or the budgets, or change the family"
        ):
            return self._proposals(recipe, vocab_size, data_digest)

    def _proposals(self, recipe: Recipe, vocab_size: int, data_digest: str) -> tuple[Proposal, ...]:
        ratio = self.span ** (1 / (self.sizes_per_budget - 1))
        centres = [self._centre(budget, recipe, vocab_size) for budget in self.budgets]
        asked: list[tuple[RunRequest, float, float]] = []
        replicates: list[tuple[RunRequest, float, float]] = []
        models: dict[int, Architecture] = {}  # slices share sizes
        for i, (budget, centre) in enumerate(zip(self.budgets, centres, strict=True)):
            middle = math.log(centre / centres[0], ratio)
            first = round(middle - (self.sizes_per_budget - 1) / 2)
            built: dict[Architecture, float] = {}
            for k in range(first, first + self.sizes_per_budget):
                target = centres[0] * ratio**k
                if k not in models:
                    models[k] = recipe.model_at(target, vocab_size)
                model = models[k]
                if model in built:
                    raise ConfigError(
                        f"sizes {si(built[model])} and {si(target)} come out as the same model",
                        where=f"design.budgets: the slice at {sci(budget)} FLOPs",
                        fix=f"raise span, lower sizes_per_budget, or {recipe.model.closer} in the family",
                    )
                built[model] = target
                tokens = budget / model.size(recipe.seq_len).flops_per_token
                seeds = [self.seed]
                if self._is_replicated(i, k - first):
                    seeds += [self.seed + r for r in range(1, self.replicates + 1)]
                for seed in seeds:
                    (asked if seed == self.seed else replicates).append(
                        (RunRequest(model, tokens, seed), budget, target)
                    )
        asked += replicates
        specs = recipe.specs((request for request, *_ in asked), data_digest=data_digest)
        first_budget: dict[RunSpec, float] = {}
        for spec, (_, budget, target) in zip(specs, asked, strict=True):
            if (other := first_budget.setdefault(spec, budget)) != budget:
                raise ConfigError(
                    f"budgets {other:.7g} and {budget:.7g} come out as the same run of {si(target)} parameters, "
                    f"{spec.n_steps:,} steps of {spec.batch_tokens:,} tokens",
                    where="design.budgets",
                    fix="space them further apart, or make the batch smaller by recipe.batch",
                )
        proposals = tuple(
            Proposal(spec, budget, target, request.n_tokens)
            for spec, (request, budget, target) in zip(specs, asked, strict=True)
        )
        return with_validation(proposals, self.validate_trunks)

    def _is_replicated(self, budget: int, size: int) -> bool:
        """Whether the cell of a budget and a size, by their numbers from 0, has replicates."""
        centre = self.sizes_per_budget // 2
        if self.replicate_at == "centre":
            return budget % 2 == 0 and size == centre
        return budget < (len(self.budgets) + 1) // 2 and size > centre

    def _centre(self, budget: float, recipe: Recipe, vocab_size: int) -> float:
        """The size at which tokens_per_param spends the budget, between members of the family.

        6 N^2 tokens_per_param = C would do for a large model; for a small one attention is
        not small, so the family's own cost is interpolated, log against log.
        """
        previous: tuple[float, float] | None = None
        for member in members(recipe.model, vocab_size):
            size = member.size(recipe.seq_len)
            n_params = size.count(recipe.param_count)
            cost = self.tokens_per_param * n_params * size.flops_per_token
            here = (math.log(cost), math.log(n_params))
            if cost >= budget:
                if previous is None:
                    raise ConfigError(
                        f"a budget of {sci(budget)} FLOPs is too small: the smallest model "
                        f"of the family, {si(n_params)} parameters, already needs {sci(cost)}",
                        where="design.budgets",
                        fix="raise the budget, or make the family's smallest model smaller",
                    )
                share = (math.log(budget) - previous[0]) / (here[0] - previous[0])
                return math.exp(previous[1] + share * (here[1] - previous[1]))
            previous = here
        raise AssertionError("a family has no end")
