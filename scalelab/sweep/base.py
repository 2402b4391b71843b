"""Designs of sweeps: which runs to train, each with requested and actual size and budget.

A design is a config. With a recipe it becomes a session with an ask/tell interface: `ask` returns
runs, `tell` receives their results; a static design returns all runs at once. Nothing is trained here.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Protocol

from scalelab.config import Config
from scalelab.train.recipe import Recipe
from scalelab.train.spec import RunResult, RunSpec


@dataclass(frozen=True)
class Proposal:
    """One run that a design requests."""

    spec: RunSpec
    flops_planned: float | None
    """The slice's budget, FLOPs; None in designs that have no slices."""
    n_params_planned: float
    """Target size, counted as the recipe counts."""
    n_tokens_planned: float
    """Tokens that the budget buys at the size that was built."""
    validates: str | None = None
    """Id of the branch of a trunk that this separate run is compared with, and then not fitted; None: it is none."""

    @property
    def flops(self) -> float:
        """Exact training FLOPs of the run: whole steps of the model that was built."""
        return self.spec.model.size(self.spec.seq_len).flops_per_token * self.spec.n_tokens


class DesignSession(Protocol):
    """A design in progress: it requests runs and receives their results.

    Results arrive in the order in which their runs were requested, so the same results lead to the
    same requests, whichever run ended first and however often the command was run.
    """

    def ask(self) -> tuple[Proposal, ...]:
        """Return further runs in display order; empty if there are none now, or ever."""

    def tell(self, proposal: Proposal, result: RunResult | None) -> None:
        """Receive the result of a run; None if the run was lost."""


class Design(Config):
    """A design of a sweep. Members add `kind: Literal[...]` and their settings."""

    adaptive: ClassVar[bool] = True
    """Whether results can lead to further runs."""
    takes_trunks: ClassVar[bool] = False
    """Whether it knows recipes whose runs share trunks: it asks for all runs at once, with Recipe.specs."""

    def n_runs(self) -> int | None:
        """Return the number of runs of the first request; None if it is not known in advance."""
        return None

    @abstractmethod
    def study(self, recipe: Recipe, *, vocab_size: int, data_digest: str) -> DesignSession:
        """Return a session of the design.

        Raises:
            ConfigError: A run that it requests cannot be built.
        """


class StaticDesign(Design):
    """A design that is fixed before any run starts."""

    adaptive: ClassVar[bool] = False

    @abstractmethod
    def ask(self, recipe: Recipe, *, vocab_size: int, data_digest: str) -> tuple[Proposal, ...]:
        """Return every run, in display order."""

    def study(self, recipe: Recipe, *, vocab_size: int, data_digest: str) -> DesignSession:
        """Return a session that requests all runs at once."""
        return _Once(self.ask(recipe, vocab_size=vocab_size, data_digest=data_digest))


class _Once:
    def __init__(self, proposals: tuple[Proposal, ...]):
        self._proposals = proposals

    def ask(self) -> tuple[Proposal, ...]:
        proposals, self._proposals = self._proposals, ()
        return proposals

    def tell(self, proposal: Proposal, result: RunResult | None) -> None:
        """Nothing depends on it."""
