"""A ladder: sizes times token counts, for surfaces L(N, D).

    D of a run   r N for each r of tokens_per_param, or each count of `tokens`

With a recipe of trunks (schedule: {kind: wsd, trunk: true}) a size and seed is one trunk, and its token counts are
branches. Of the compute of separate runs at cooldown share k it takes

    k + (1 - k) max D / sum D

which six evenly spaced counts from 10 to 35 N bring to .48 at k = .3; four powers of two only to .67.

Source: sizes times tokens per parameter, Hoffmann et al. 2022, Approach 1, arXiv:2203.15556; branches of one
constant rate, Haegele et al. 2024, arXiv:2405.18392.

Not here: slices of equal compute (isoflop.py).
"""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from scalelab.config import LARGEST_SEED, Count, Positive, Seed, Whole, refuse_arithmetic
from scalelab.errors import ConfigError
from scalelab.sweep.base import Proposal, StaticDesign
from scalelab.sweep.validation import with_validation
from scalelab.train.recipe import Recipe, RunRequest
from scalelab.units import si

EVEN = (10.0, 15.0, 20.0, 25.0, 30.0, 35.0)


class TokenLadderDesign(StaticDesign):
    """Several sizes N, each trained on several token counts D."""

    takes_trunks: ClassVar[bool] = True

    kind: Literal["ladder"] = "ladder"

    sizes: tuple[Positive, ...] = Field(min_length=1)
    """Target sizes, parameters in the count of the recipe; the nearest members of the family are built."""
    tokens_per_param: tuple[Positive, ...] = ()
    """Training tokens of each run over its parameters. Default, where no `tokens` are given: 10 to 35 in steps of 5."""
    tokens: tuple[Positive, ...] = ()
    """Training tokens of each run, the same at every size, in place of tokens_per_param."""
    seed: Seed = 0
    """First seed."""
    seeds: Count = 1
    """Seeds of each size, from the first: with trunks, as many trunks."""
    validate_trunks: Whole = 0
    """Branches that are also trained separately, with the same cooldown, to compare; these runs are not fitted."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.tokens and self.tokens_per_param:
            raise ValueError("tokens and tokens_per_param are both given: give one of them")
        for name in ("sizes", "tokens_per_param", "tokens"):
            values = list(getattr(self, name))
            if values != sorted(set(values)):
                raise ValueError(f"{name} must rise without repeats, not {values}")
        if self.seed + self.seeds - 1 > LARGEST_SEED:
            raise ValueError(f"{self.seeds} seeds from {self.seed} on pass {LARGEST_SEED}")
        return self

    def n_runs(self) -> int:
        """Return the number of runs: sizes times token counts times seeds, and those that validate."""
        counts = len(self.tokens or self.tokens_per_param or EVEN)
        return len(self.sizes) * counts * self.seeds + self.validate_trunks

    def ask(self, recipe: Recipe, *, vocab_size: int, data_digest: str) -> tuple[Proposal, ...]:
        """Every run by seed, size and tokens, then those that validate.

        Raises:
            ConfigError: A size cannot be built, two come out as one model, two token counts of a size as one run,
                or a run would be too short.
        """
        with refuse_arithmetic("the sizes", "design.sizes", "lower the sizes, or change the family"):
            models = [recipe.model_at(size, vocab_size) for size in self.sizes]
        for i, model in enumerate(models[1:], 1):
            if model == models[i - 1]:
                raise ConfigError(
                    f"sizes {si(self.sizes[i - 1])} and {si(self.sizes[i])} come out as the same model",
                    where="design.sizes",
                    fix=f"space them further apart, or {recipe.model.closer} in the family",
                )
        asked = []
        for seed in range(self.seed, self.seed + self.seeds):
            for target, model in zip(self.sizes, models, strict=True):
                n_params = model.size(recipe.seq_len).count(recipe.param_count)
                counts = self.tokens or tuple(ratio * n_params for ratio in self.tokens_per_param or EVEN)
                asked += [(RunRequest(model, n_tokens, seed), target) for n_tokens in counts]
        specs = recipe.specs((request for request, _ in asked), data_digest=data_digest)
        for (one, _), (other, _), spec, after in zip(asked, asked[1:], specs, specs[1:], strict=False):
            if spec == after:
                name = "tokens" if self.tokens else "tokens_per_param"
                raise ConfigError(
                    f"{one.n_tokens:.7g} and {other.n_tokens:.7g} tokens come out as the same run of {spec.n_steps:,} "
                    f"steps of {spec.batch_tokens:,} tokens",
                    where=f"design.{name}",
                    fix="space them further apart, or make the batch smaller by recipe.batch",
                )
        proposals = tuple(
            Proposal(spec, None, target, request.n_tokens)
            for spec, (request, target) in zip(specs, asked, strict=True)
        )
        return with_validation(proposals, self.validate_trunks)
