"""Rules whose constants are the recipe's own: a constant, a power, width, horizon.

    constant    value
    power       coefficient N^a D^b width^c depth^d C^e B^f steps^g, within [least, most]
    width       base (width_ref / width)^exponent                          muP's for Adam: exponent 1
    horizon     base (tokens_ref / D)^exponent                      at a batch that stays as it is

The rate of `horizon` falls with D and that of the Step law rises with D: the batch stays in the
first and grows in the second. Never take the rate of one and the batch of the other.

Sources: Yang et al. 2022 (muP), arXiv:2203.03466; Bjorck et al. 2024, arXiv:2409.19913 (rate as a
power of D, exponent about .3).
"""

from typing import Literal

from scalelab.config import NonNegative, Number, Positive
from scalelab.train.rules.base import QUANTITIES, Rule, Scale


class ConstantRule(Rule):
    """A number that does not depend on the scale."""

    kind: Literal["constant"] = "constant"
    value: Number

    def at(self, scale: Scale) -> float:
        """The value."""
        del scale
        return self.value


class PowerRule(Rule):
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
