"""Rules whose constants are the recipe's own: a constant, a power, width, horizon.

    constant    value
    power       coefficient N^a D^b width^c depth^d C^e B^f steps^g, within [least, most]
    width       base (width_ref / width)^exponent                          muP's for Adam: exponent 1
    horizon     base (tokens_ref / D)^exponent                      at a batch that stays as it is

A constant or a power that was fitted, by `scalelab tune` or elsewhere, states on which N, D and batches in `fitted_on`;
a plan of runs beyond them says so.

The rate of `horizon` falls with D and that of the Step law rises with D: the batch stays in the
first and grows in the second. Never take the rate of one and the batch of the other.

Sources: Yang et al. 2022 (muP), arXiv:2203.03466; Bjorck et al. 2024, arXiv:2409.19913 (rate as a
power of D, exponent about .3).
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from scalelab.config import Config, NonNegative, Number, Positive
from scalelab.config_errors import ValueAtKey
from scalelab.train.rules.base import QUANTITIES, FittedRange, Rule, Scale

Ends = tuple[Positive, Positive]


class FittedOn(Config):
    """The least and the largest of what a rule was fitted on. What is not given is not known."""

    n_params: Ends | None = None
    """Parameters, in the count of the recipe."""
    n_tokens: Ends | None = None
    """Training tokens of a run."""
    batch_tokens: Ends | None = None
    """Tokens of a step."""

    @model_validator(mode="after")
    def _ascend(self) -> Self:
        for name in _WORDS:
            ends = getattr(self, name)
            if ends is not None and ends[0] > ends[1]:
                raise ValueAtKey(
                    f"the range of {name} begins at {ends[0]:g} and ends at {ends[1]:g}",
                    (name,),
                    "give the smaller end first",
                )
        return self

    def ranges(self) -> tuple[FittedRange, ...]:
        """Return the ranges that are known."""
        known = {name: getattr(self, name) for name in _WORDS}
        return tuple(FittedRange(name, *ends, _WORDS[name]) for name, ends in known.items() if ends)


_WORDS = {"n_params": "parameters", "n_tokens": "tokens", "batch_tokens": "tokens a step"}


class _FittedRule(Rule):
    """A rule whose constants are the recipe's own, and may have been fitted."""

    fitted_on: FittedOn | None = Field(None, json_schema_extra={"since": 2})
    """Where it was fitted; None: nowhere, or not known."""

    def fitted_ranges(self) -> tuple[FittedRange, ...]:
        """See Rule."""
        return () if self.fitted_on is None else self.fitted_on.ranges()


class ConstantRule(_FittedRule):
    """A number that does not depend on the scale."""

    kind: Literal["constant"] = "constant"
    value: Number

    def at(self, scale: Scale) -> float:
        """The value."""
        del scale
        return self.value


class PowerRule(_FittedRule):
    """coefficient x n_params^a x n_tokens^b x ..., within [least, most].

    Such are the published ones: rate and batch as powers of N and D, Li et al. 2025 (Step law),
    arXiv:2503.04715; as powers of C, Bi et al. 2024 (DeepSeek LLM), arXiv:2401.02954.
    """

    kind: Literal["power"] = "power"
    coefficient: Positive
    n_params: Number = 0.0
    """Exponent of N; so are the others of theirs."""
    n_tokens: Number = 0.0
    width: Number = 0.0
    depth: Number = 0.0
    flops: Number = 0.0
    batch_tokens: Number = 0.0
    n_steps: Number = 0.0
    least: NonNegative = 0.0
    most: Positive | None = None

    def at(self, scale: Scale) -> float:
        """The product, within its limits."""
        value = self.coefficient
        for name in QUANTITIES:
            if exponent := getattr(self, name):
                value *= float(getattr(scale, name)) ** exponent
        return max(self.least, value if self.most is None else min(value, self.most))


class WidthRule(Rule):
    """A number that falls with the width of the model."""

    kind: Literal["width"] = "width"
    base: Positive
    """The number at width_ref."""
    width_ref: Positive
    exponent: Number = 1.0

    def at(self, scale: Scale) -> float:
        """The product base (width_ref / width)^exponent."""
        return self.base * (self.width_ref / scale.width) ** self.exponent


class HorizonRule(Rule):
    """A number that falls with the tokens of the run."""

    kind: Literal["horizon"] = "horizon"
    base: Positive
    """The number at tokens_ref."""
    tokens_ref: Positive
    """T0 in tokens."""
    exponent: Number = 0.3

    def at(self, scale: Scale) -> float:
        """The product base (tokens_ref / D)^exponent."""
        return self.base * (self.tokens_ref / scale.n_tokens) ** self.exponent
