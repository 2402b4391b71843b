"""A design for mixture laws: mixtures of the recipe's domains, drawn evenly over all shares, at one or more sizes.

    shares    lowest + (1 - k lowest) x a flat Dirichlet draw, the same mixtures at every size

A law of log shares has k + 1 constants for each target, so 3 to 5 mixtures for each of the k domains are trained.
Models that are too small rank mixtures otherwise than large ones: by rank correlation .73 at 1M parameters and .89 at
15M, so smaller sizes have to be allowed.

Source: sizes of proxies, Olmix, arXiv:2602.12237; the draw, RegMix, Liu et al. 2024, arXiv:2407.01492.
Not here: the law (laws/mixture/), the order of training (data/corpus/mixture.py).
"""

from math import log
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from scalelab.config import Count, Positive, Seed, Switch, refuse_arithmetic
from scalelab.data.hashing import drawn_share
from scalelab.errors import ConfigError
from scalelab.sweep.base import Proposal, StaticDesign
from scalelab.train.recipe import Recipe
from scalelab.units import si

SMALLEST = 1e6
"""Parameters below which a proxy is refused."""


class MixtureDesign(StaticDesign):
    """Runs that differ in their mixture."""

    kind: Literal["mixture"] = "mixture"

    sizes: tuple[Positive, ...] = Field(min_length=1)
    """Parameters of each size, in the count of the recipe. A second size shows whether the mixture carries over."""
    n_tokens: Positive
    """Training tokens of each run."""
    mixtures_per_domain: Annotated[Count, Field(ge=3, le=5)] = 4
    """Mixtures for each domain."""
    lowest: Annotated[float, Field(strict=True, ge=0, lt=0.5)] = 0.0
    """Smallest share of a domain."""
    seed: Seed = 0
    """Draws the mixtures, and seeds every run, so that runs differ in their mixture alone."""
    small_proxies: Switch = False
    """Whether sizes below 1M parameters are allowed."""

    @model_validator(mode="after")
    def _sizes_rank_mixtures(self) -> Self:
        if min(self.sizes) < SMALLEST and not self.small_proxies:
            raise ValueError(
                f"{si(min(self.sizes))} parameters are too few to rank mixtures for a large model: ranks correlate "
                ".73 at 1M parameters and .89 at 15M (arXiv:2602.12237); set small_proxies: true to study small models"
            )
        return self

    def ask(self, recipe: Recipe, *, vocab_size: int, data_digest: str) -> tuple[Proposal, ...]:
        """Return every run by size and mixture.

        Raises:
            ConfigError: The recipe has no named domains or fixed weights, or a size cannot be built.
        """
        names = getattr(recipe.data.source, "names", ())
        if not names or recipe.data.weights is not None:
            raise ConfigError(
                "the source has no named domains"
                if not names
                else "the recipe fixes the weights of its domains",
                where="recipe.data",
                fix="name the parts of a mix: source: {kind: mix, names: [web, code], parts: [...]}"
                if not names
                else "remove recipe.data.weights: the design chooses them",
            )
        if recipe.data.held_out is not None and not getattr(recipe.data.held_out, "names", ()):
            raise ConfigError(
                "the held-out text has no domains, so the loss on each cannot be measured",
                where="recipe.data.held_out",
                fix="remove it, so that each domain holds out documents of its own",
            )
        if self.lowest * len(names) >= 1:
            raise ConfigError(
                f"{len(names)} domains cannot each have {self.lowest:g} or more",
                where="design.lowest",
                fix=f"set it below {1 / len(names):.3g}",
            )
        with refuse_arithmetic("the sizes", "design.sizes", "lower the sizes, or change the family"):
            models = [recipe.model_at(size, vocab_size) for size in self.sizes]
        mixtures = draw_mixtures(len(names), self.mixtures_per_domain * len(names), self.lowest, self.seed)
        proposals = []
        for target, model in zip(self.sizes, models, strict=True):
            spec = recipe.spec(model, self.n_tokens, data_digest=data_digest, seed=self.seed)
            for shares in mixtures:
                weights = dict(zip(names, shares, strict=True))
                data = spec.data.model_copy(update={"weights": weights})
                proposals.append(
                    Proposal(spec.model_copy(update={"data": data}), None, target, self.n_tokens)
                )
        return tuple(proposals)


def draw_mixtures(k: int, n: int, lowest: float, seed: int) -> list[tuple[float, ...]]:
    """Return n mixtures of k domains, the same for the same seed; the first is the even one.

    Args:
        k: Domains.
        n: Mixtures.
        lowest: Smallest share.
        seed: Of the draw.
    """
    found = [tuple(_rounded([1 / k] * k))]
    for i in range(1, n):
        parts = [-log(1 - drawn_share(f"mixture {seed}", i * k + j)) for j in range(k)]
        found.append(tuple(_rounded([lowest + (1 - k * lowest) * part / sum(parts) for part in parts])))
    return found


def _rounded(shares: list[float]) -> list[float]:
    """Return shares of four decimals that sum to 1."""
    rounded = [round(share, 4) for share in shares]
    rounded[rounded.index(max(rounded))] += 1 - sum(rounded)
    return [round(share, 4) for share in rounded]
