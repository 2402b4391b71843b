"""One run: a size and its tokens, as a plan gives them.

Not here: how they are chosen (plan/choose/).
"""

from typing import ClassVar, Literal

from scalelab.config import Positive, Seed
from scalelab.sweep.base import Proposal, StaticDesign
from scalelab.train.recipe import Recipe


class SingleDesign(StaticDesign):
    """One model of the recipe's family on a number of tokens. It shares nothing, so it has no trunk."""

    takes_trunks: ClassVar[bool] = True

    kind: Literal["single"] = "single"

    n_params: Positive
    """Parameters, in the count of the recipe; the nearest member of the family is built."""
    n_tokens: Positive
    """Training tokens; the nearest whole number of steps is trained."""
    seed: Seed = 0

    def n_runs(self) -> int:
        """Return 1."""
        return 1

    def ask(self, recipe: Recipe, *, vocab_size: int, data_digest: str) -> tuple[Proposal, ...]:
        """Return the run.

        Raises:
            ConfigError: The family has no such size, or the run would be too short.
        """
        model = recipe.model_at(self.n_params, vocab_size)
        spec = recipe.spec(model, self.n_tokens, data_digest=data_digest, seed=self.seed)
        return (Proposal(spec, None, self.n_params, self.n_tokens),)
