"""A design that is told what its runs came to: it narrows a bracket of sizes at one budget.

    round 1   three sizes, `span` apart around the size where D = tokens_per_param N
    round k   two more sizes, halfway (in log N) between the best and its neighbours

So the minimum of loss at the budget is enclosed ever more closely, with two runs a round.
"""

import math
from typing import Literal

from scalelab.config import Count, Flops, Positive, Whole
from scalelab.errors import ConfigError
from scalelab.sweep.base import Design, Proposal
from scalelab.train.recipe import Recipe
from scalelab.train.spec import RunResult


class Zoom(Design):
    """At one budget, sizes that close in on the best."""

    kind: Literal["zoom"] = "zoom"
    budget: Flops
    tokens_per_param: Positive = 20.0
    span: Positive = 4.0
    """Between the smallest and the largest size of the first round."""
    rounds: Count = 2
    seed: Whole = 0

    def study(self, recipe: Recipe, *, vocab_size: int, data_digest: str) -> "Narrowing":
        return Narrowing(self, recipe, vocab_size, data_digest)


class Narrowing:
    def __init__(self, design: Zoom, recipe: Recipe, vocab_size: int, data_digest: str):
        self.design, self.recipe = design, recipe
        self.vocab_size, self.data_digest = vocab_size, data_digest
        self.losses: dict[float, float] = {}  # by target size
        self.n_rounds, self.open = 0, 0

    def ask(self) -> tuple[Proposal, ...]:
        if self.open or self.n_rounds == self.design.rounds:
            return ()
        self.n_rounds += 1
        targets = self._first() if self.n_rounds == 1 else self._halfway()
        proposals = [self._proposal(target) for target in targets]
        self.open = len(proposals)
        return tuple(proposals)

    def tell(self, proposal: Proposal, result: RunResult | None) -> None:
        self.open -= 1
        loss = None if result is None else result.loss
        self.losses[proposal.n_params_planned] = math.inf if loss is None else loss

    def _first(self) -> list[float]:
        middle = math.sqrt(self.design.budget / 6 / self.design.tokens_per_param)
        return [middle * self.design.span**step for step in (-0.5, 0.0, 0.5)]

    def _halfway(self) -> list[float]:
        sizes = sorted(self.losses)
        best = sizes.index(min(sizes, key=self.losses.get))
        neighbours = [sizes[i] for i in (best - 1, best + 1) if 0 <= i < len(sizes)]
        halfway = [math.sqrt(sizes[best] * each) for each in neighbours]
        return [target for target in halfway if self._is_between(target, sizes)]

    def _is_between(self, target: float, sizes: list[float]) -> bool:
        """Whether the family has a model there that was not trained yet."""
        try:
            model = self.recipe.model_at(target, self.vocab_size)
        except ConfigError:
            return False
        return model not in {self.recipe.model_at(size, self.vocab_size) for size in sizes}

    def _proposal(self, target: float) -> Proposal:
        model = self.recipe.model_at(target, self.vocab_size)
        tokens = self.design.budget / model.size(self.recipe.seq_len).flops_per_token
        spec = self.recipe.spec(model, tokens, data_digest=self.data_digest, seed=self.design.seed)
        return Proposal(spec, self.design.budget, target, tokens)
