"""What a design answers: the runs to train, each with what was asked for beside what it got.

A design is a config that a person writes and a function of the recipe: `ask` names runs.
Nothing is trained here, and nothing is read but the recipe.
"""

from dataclasses import dataclass
from typing import Protocol

from scalelab.train.recipe import Recipe
from scalelab.train.spec import RunSpec


@dataclass(frozen=True)
class Proposal:
    """One run that a design asks for."""

    spec: RunSpec
    flops_planned: float | None
    """The slice's budget, FLOPs; None in designs that have no slices."""
    n_params_planned: float
    """Target size, counted as the recipe counts."""
    n_tokens_planned: float
    """Tokens that the budget buys at the size that was built."""

    @property
    def flops(self) -> float:
        """What the run will cost, exactly: whole steps of the model that was built."""
        return self.spec.model.size(self.spec.seq_len).flops_per_token * self.spec.n_tokens


class Design(Protocol):
    """What the driver asks of a design."""

    def ask(self, recipe: Recipe, *, vocab_size: int, data_digest: str) -> tuple[Proposal, ...]:
        """The runs to train, in the order in which people should see them."""
