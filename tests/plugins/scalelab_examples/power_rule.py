"""The Step law: rate and batch of the least loss, as powers of N and D.

    lr    = 1.79 N^-0.713 D^0.307
    batch = 0.58 D^0.571 tokens          N without embeddings, D tokens

Source: Li et al. 2025, arXiv:2503.04715, equation 1, fitted with AdamW.
"""

from typing import Literal

from scalelab.config import Positive
from scalelab.train.rules import Rule


class StepLawRate(Rule):
    """The peak rate."""

    kind: Literal["step_law_rate"] = "step_law_rate"
    times: Positive = 1.0
    """Of what the law says."""

    def at(self, scale):
        """1.79 N^-0.713 D^0.307."""
        return self.times * 1.79 * scale.n_params**-0.713 * scale.n_tokens**0.307


class StepLawBatch(Rule):
    """Tokens of a step."""

    kind: Literal["step_law_batch"] = "step_law_batch"
    times: Positive = 1.0

    def at(self, scale):
        """0.58 D^0.571."""
        return self.times * 0.58 * scale.n_tokens**0.571
