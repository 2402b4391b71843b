"""The batch: as a power of the tokens of the run, and in whole windows.

    batch_tokens = coefficient D^exponent, within [min_tokens, max_tokens]

Source: Bergsma et al. 2025, arXiv:2505.13738, for a power of D that does not depend on N.

Not here: batches of published families (step_law.py, deepseek.py).
"""

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from scalelab.config import Count, NonNegative, Positive
from scalelab.errors import ConfigError
from scalelab.train.rules.base import Rule, Scale


class BatchRule(Rule):
    """Tokens per optimizer step as a power of the tokens of the run.

    Source: Bergsma et al. 2025, arXiv:2505.13738.
    """

    kind: Literal["batch"] = Field("batch", json_schema_extra={"since": 2})
    coefficient: Positive = 0.9
    exponent: NonNegative = 0.5
    min_tokens: Count = 512
    max_tokens: Count = 2**22

    @model_validator(mode="after")
    def _range(self) -> Self:
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens {self.min_tokens} is over max_tokens {self.max_tokens}")
        return self

    def at(self, scale: Scale) -> float:
        """The power of D, in [min_tokens, max_tokens]."""
        wanted = self.coefficient * scale.n_tokens**self.exponent
        return min(max(wanted, self.min_tokens), self.max_tokens)


def whole_batch(rule: Rule, scale: Scale, seq_len: int) -> int:
    """Tokens per step by a rule, to the nearest power of two of whole windows.

    Raises:
        ConfigError: The rule gives no positive number.
    """
    wanted = rule.at(scale)
    if not 0 < wanted < math.inf:
        raise ConfigError(
            f"the rule {rule.kind!r} gives a batch of {wanted} tokens",
            where=f"recipe.batch: for {scale.words()}",
            fix="change the rule so that it gives a positive number there",
        )
    return seq_len * 2 ** max(0, round(math.log2(wanted / seq_len)))
