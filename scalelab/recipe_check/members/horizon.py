"""Horizon check: the best rate of a short run is the best of one with 8 times the tokens.

One model is trained on two token counts, each at the batch and the rate that the recipe's rules give there and
at 1/3 and 3 times that rate. A rate that does not follow the tokens, while its batch stays, is the fault behind
forecasts that failed far beyond clean fits.

Source: Bjorck et al. 2024, arXiv:2409.19913 (the best rate falls with the tokens).
"""

from typing import ClassVar

from scalelab.model.base import Architecture
from scalelab.recipe_check.base import CheckFinding, RecipeCheck
from scalelab.recipe_check.rate_sweep import FIRST, SHARE, compare_rates
from scalelab.recipe_check.workbench import MIN_STEPS, RecipeWorkbench
from scalelab.units import si

LONGER = 8
THRESHOLD = 1.0
"""Largest move of the best rate, in steps of a factor of 3."""


class HorizonCheck(RecipeCheck):
    """The best rate at some tokens and at 8 times as many."""

    title: ClassVar[str] = "best rate against tokens"
    question: ClassVar[str] = "Is the best rate the recipe's own, or as far from it, on 8 times the tokens?"
    unit: ClassVar[str] = "steps of a factor of 3 in the rate"

    def run(self, bench: RecipeWorkbench) -> CheckFinding:
        """See RecipeCheck."""

        def tokens(models: list[Architecture]) -> float:
            per_token = (1 + LONGER) * bench.flops_per_token(models[0])
            wanted = SHARE * bench.budget / (per_token * len(FIRST) * len(bench.seeds))
            return min(wanted, bench.most_tokens() / LONGER)

        def is_affordable(models: list[Architecture]) -> bool:
            n_tokens = tokens(models)
            return n_tokens >= MIN_STEPS * bench.batch_at(models[0], n_tokens)

        [model] = models = bench.widths((1,), is_affordable)
        n_tokens = tokens(models)
        short, long = n_tokens, LONGER * n_tokens
        settings = {f"{si(n)} tokens": lambda seed, n=n: bench.spec(model, n, seed) for n in (short, long)}
        specs = [make(bench.seeds[0]) for make in settings.values()]
        facts = {
            "width": model.width(),
            "depth": model.depth(),
            "tokens": ", ".join(f"{spec.n_tokens}" for spec in specs),
            "batch tokens": ", ".join(f"{spec.batch_tokens}" for spec in specs),
            "steps": ", ".join(f"{spec.n_steps}" for spec in specs),
        }
        return compare_rates(bench, settings, THRESHOLD, facts)
