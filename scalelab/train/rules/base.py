"""What every rule is: the scale that it reads, the number that it gives, where it was published.

    N, D, width, depth, C  ->  batch  ->  steps  ->  rates, betas, warmup  ->  decays by the rate

A rule of a paper carries a PublishedFit: its constants, each with what it was compared with, the
optimizer and the range it was fitted with, and which other rules it was fitted together with. A
recipe that takes such a rule out of its family is refused (family_checks.py).

Not here: the rules (one file a family), how a number of a recipe becomes a rule (resolution.py).
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from scalelab.config import Config
from scalelab.errors import ConfigError
from scalelab.units import sci, si

QUANTITIES = ("n_params", "n_tokens", "width", "depth", "flops", "batch_tokens", "n_steps")
"""Quantities of a Scale that a power may read."""


@dataclass(frozen=True)
class Scale:
    """The scale of one run, as far as it is settled."""

    n_params: float
    """N, by the recipe's count."""
    n_tokens: float
    """D, as asked for: the run's own is whole steps of it."""
    width: int
    depth: int
    flops: float
    """C = FLOPs per training token, exact, x D."""
    batch: int | None = None
    """Tokens per step; None before it is settled. Rules read batch_tokens."""
    body_params: float | None = None
    """N without embedding and head, whatever the recipe counts. Rules read n_params_non_embedding."""
    body_flops: float | None = None
    """C without the head. Rules read flops_non_embedding."""
    rate: float | None = None
    """Peak rate of matrices; None before it is settled. Rules read learning_rate."""

    @property
    def batch_tokens(self) -> int:
        """Tokens per step. Raises ConfigError where it is this that is being settled."""
        if self.batch is None:
            raise ConfigError(
                "the rule of the batch reads the batch, or what follows from it",
                where="recipe.batch",
                fix="let it read n_params, n_tokens, width, depth or flops",
            )
        return self.batch

    @property
    def n_steps(self) -> int:
        """Whole steps that come nearest to n_tokens. Raises ConfigError likewise."""
        return round(self.n_tokens / self.batch_tokens)

    @property
    def n_params_non_embedding(self) -> float:
        """N without embedding and head, by which several published rules count."""
        return self._known(self.body_params, "the parameters without the embedding")

    @property
    def flops_non_embedding(self) -> float:
        """C = M x D, with M the FLOPs per training token without the head."""
        return self._known(self.body_flops, "the FLOPs without the head")

    @property
    def learning_rate(self) -> float:
        """Peak rate of matrices. Raises ConfigError where it is this that is being settled."""
        return self._known(self.rate, "the learning rate")

    def _known(self, value: float | None, what: str) -> float:
        if value is None:
            raise ConfigError(
                f"a rule reads {what}, which is not settled where the rule stands",
                where=f"recipe: for {self.words()}",
                fix="let another rule stand there, such as power",
            )
        return value

    def with_batch(self, batch_tokens: int) -> "Scale":
        """Return the scale with the batch settled."""
        return replace(self, batch=batch_tokens)

    def with_rate(self, rate: float) -> "Scale":
        """Return the scale with the peak rate of matrices settled."""
        return replace(self, rate=rate)

    def words(self) -> str:
        """N and D, for a message."""
        return f"{si(self.n_params)} parameters on {si(self.n_tokens)} tokens"


@dataclass(frozen=True)
class RuleConstant:
    """A constant of a published rule."""

    value: float
    checked: str = ""
    """What the value was compared with; empty: it was not checked."""


@dataclass(frozen=True)
class FittedRange:
    """Values of one quantity between which a rule was fitted."""

    quantity: str
    """Attribute of Scale."""
    low: float
    high: float
    words: str
    """The quantity and its unit: "non-embedding parameters"."""
    checked: str = ""
    """As in RuleConstant."""

    def ends(self) -> str:
        """Return both ends, or the one value, with the unit."""
        ends = sci(self.low) if self.low == self.high else f"{sci(self.low)} to {sci(self.high)}"
        return f"{ends} {self.words}"


@dataclass(frozen=True)
class PublishedFit:
    """Where a rule comes from, and what else holds where it was fitted."""

    family: str
    """Name of the work, for messages."""
    formula: str
    source: str
    """Authors, year and arXiv id or address."""
    constants: Mapping[str, RuleConstant]
    optimizers: tuple[str, ...] = ()
    """Kinds of optimizers that it was fitted with; none: whichever the recipe has."""
    ranges: tuple[FittedRange, ...] = ()
    """Ranges that the source gives. What is not here, it does not give."""
    co_scales: str = ""
    """What changes together with the number where the rule was fitted."""
    partners: Mapping[str, str] = field(default_factory=dict)
    """Kinds of the rules that must stand elsewhere, by place: {"batch": "steplaw_batch"}."""
    is_whole_rate: bool = False
    """Whether the number is a rate to which nothing may be multiplied by width or batch."""
    caution: str = ""
    """A known failure of the rule, as a sentence."""

    def value(self, name: str) -> float:
        """Return a constant."""
        return self.constants[name].value

    def unchecked(self) -> list[str]:
        """Return what was not compared with the source: constants and ranges by name."""
        names = [name for name, constant in self.constants.items() if not constant.checked]
        return names + [f"range of {r.words}" for r in self.ranges if not r.checked]


class Rule(Config):
    """A number as a function of the scale of a run. The base of all members of RULES.

    A subclass has a field `kind`, which is always its name in the registry.
    """

    kind: str
    published: ClassVar[PublishedFit | None] = None
    """Where the rule and its constants come from; None: its constants are those of the recipe."""
    reads_rate: ClassVar[bool] = False
    """Whether it reads the learning rate, and is therefore settled after it."""

    @abstractmethod
    def at(self, scale: Scale) -> float:
        """The number at a scale."""

    def fitted_ranges(self) -> tuple[FittedRange, ...]:
        """Return the ranges that the rule was fitted on, as far as they are known."""
        return self.published.ranges if self.published is not None else ()

    def mismatch(self, recipe: Any) -> str | None:
        """Return why the rule does not hold in a recipe beyond what `published` says, or None.

        Args:
            recipe: Its parts as attributes: batch, optimizer, schedule.
        """
        del recipe
        return None
