"""Transfer check: the best rate of the base width is the best at 4 times the width.

Models of two widths see the same tokens in batches of the same size, each at the recipe's rate for its width and
at 1/3 and 3 times of it. Only the width differs, so a rule of the rate that follows tokens or batch is not
checked here: see horizon.py.

Source: Yang et al. 2022 (muP), arXiv:2203.03466, figure 1.
"""

from typing import ClassVar

from scalelab.model.base import Architecture
from scalelab.recipe_check.base import CheckFinding, RecipeCheck
from scalelab.recipe_check.rate_sweep import FIRST, SHARE, compare_rates
from scalelab.recipe_check.workbench import MIN_STEPS, RecipeWorkbench

FACTORS = (1, 4)
THRESHOLD = 1.0
"""Largest move of the best rate, in steps of a factor of 3."""


class TransferCheck(RecipeCheck):
    """The best rate at the base width and at 4 times it."""

    title: ClassVar[str] = "best rate against width"
    question: ClassVar[str] = "Is the best rate the recipe's own, or as far from it, at 4 times the width?"
    unit: ClassVar[str] = "steps of a factor of 3 in the rate"

    def run(self, bench: RecipeWorkbench) -> CheckFinding:
        """See RecipeCheck."""

        def tokens(models: list[Architecture]) -> float:
            per_token = sum(bench.flops_per_token(model) for model in models)
            wanted = SHARE * bench.budget / (per_token * len(FIRST) * len(bench.seeds))
            return min(wanted, bench.most_tokens())

        def is_affordable(models: list[Architecture]) -> bool:
            n_tokens = tokens(models)
            return n_tokens >= MIN_STEPS * bench.batch_at(models[0], n_tokens)

        base, wide = models = bench.widths(FACTORS, is_affordable)
        n_tokens = tokens(models)
        batch = bench.batch_at(base, n_tokens)
        settings = {
            f"width {model.width()}": lambda seed, model=model: bench.spec(model, n_tokens, seed, batch)
            for model in (base, wide)
        }
        facts = {
            "widths": f"{base.width()}, {wide.width()}",
            "depths": f"{base.depth()}, {wide.depth()}",
            "tokens": round(n_tokens / batch) * batch,
            "batch tokens": batch,
            "steps": round(n_tokens / batch),
        }
        return compare_rates(bench, settings, THRESHOLD, facts)
