"""What a design answers: the runs to train, each with what was asked for beside what it got.

A design is a config that a person writes. With a recipe it becomes a study, which names runs and is
told their results; a static design names all of them at once. Nothing is trained here.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Protocol

from scalelab.config import Config
from scalelab.train.recipe import Recipe
from scalelab.train.spec import RunResult, RunSpec


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


class Study(Protocol):
    """A design at work: it asks for runs, and is told what they came to.

    Results are told in the order in which their runs were asked for, so the same results lead to
    the same questions, whatever ended first and however often the command was run.
    """

    def ask(self) -> tuple[Proposal, ...]:
        """Further runs, in the order in which people should see them; none for now, or ever."""

    def tell(self, proposal: Proposal, result: RunResult | None) -> None:
        """What one of them came to; None where its run was lost."""


class Design(Config):
    """What is to be trained. Members add `kind: Literal[...]` and their settings."""

    adaptive: ClassVar[bool] = True
    """Whether results lead to further runs."""

    @abstractmethod
    def study(self, recipe: Recipe, *, vocab_size: int, data_digest: str) -> Study:
        """The design at work.

        Raises:
            ConfigError: A run that it asks for cannot be made.
        """


class StaticDesign(Design):
    """A design that is settled before any run starts."""

    adaptive: ClassVar[bool] = False

    @abstractmethod
    def ask(self, recipe: Recipe, *, vocab_size: int, data_digest: str) -> tuple[Proposal, ...]:
        """Every run, in the order in which people should see them."""

    def study(self, recipe: Recipe, *, vocab_size: int, data_digest: str) -> Study:
        """It asks once."""
        return _Once(self.ask(recipe, vocab_size=vocab_size, data_digest=data_digest))


class _Once:
    def __init__(self, proposals: tuple[Proposal, ...]):
        self._proposals = proposals

    def ask(self) -> tuple[Proposal, ...]:
        proposals, self._proposals = self._proposals, ()
        return proposals

    def tell(self, proposal: Proposal, result: RunResult | None) -> None:
        """Nothing depends on it."""
