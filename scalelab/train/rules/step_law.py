"""The Step law: rate and batch of the lowest loss, as powers of N and D. Literature.

    lr    = 1.79 N^-0.713 D^0.307
    batch = 0.58 D^0.571              N parameters without embedding and head, D and batch in tokens

The rate rises with D because the batch does: each is refused without the other. The data that
were released with the paper do not reproduce the constants.

Source: Li et al. 2025, arXiv:2503.04715; fitted with AdamW, final rate fixed at 1e-5.
"""

from typing import ClassVar, Literal

from scalelab.config import Positive
from scalelab.train.rules.base import FittedRange, PublishedFit, Rule, RuleConstant, Scale

_SOURCE = "Li et al. 2025, arXiv:2503.04715"
_CHECKED = "an earlier reading of the paper, and a summary of it"
_RANGES = (
    FittedRange("n_params_non_embedding", 6e7, 1e9, "non-embedding parameters"),
    FittedRange("n_tokens", 2e9, 1e11, "tokens"),
)
_CAUTION = "The data released with the paper do not reproduce these constants."


class StepLawLr(Rule):
    """Peak rate."""

    kind: Literal["steplaw_lr"] = "steplaw_lr"
    times: Positive = 1.0
    """Multiple of the rate of the law."""
    published: ClassVar = PublishedFit(
        family="Step law",
        formula="lr = 1.79 N^-0.713 D^0.307",
        source=_SOURCE,
        constants={
            "coefficient": RuleConstant(1.79, _CHECKED),
            "n_params": RuleConstant(-0.713, _CHECKED),
            "n_tokens": RuleConstant(0.307, _CHECKED),
        },
        optimizers=("adamw",),
        ranges=_RANGES,
        co_scales="the batch rises with D by steplaw_batch",
        partners={"batch": "steplaw_batch"},
        is_whole_rate=True,
        caution=_CAUTION,
    )

    def at(self, scale: Scale) -> float:
        """1.79 N^-0.713 D^0.307, times `times`."""
        fit = self.published
        power = scale.n_params_non_embedding ** fit.value("n_params") * scale.n_tokens ** fit.value(
            "n_tokens"
        )
        return self.times * fit.value("coefficient") * power


class StepLawBatch(Rule):
    """Tokens of a step."""

    kind: Literal["steplaw_batch"] = "steplaw_batch"
    times: Positive = 1.0
    """Multiple of the batch of the law."""
    published: ClassVar = PublishedFit(
        family="Step law",
        formula="batch = 0.58 D^0.571 tokens",
        source=_SOURCE,
        constants={"coefficient": RuleConstant(0.58, _CHECKED), "n_tokens": RuleConstant(0.571, _CHECKED)},
        optimizers=("adamw",),
        ranges=_RANGES,
        co_scales="the rate follows N and D by steplaw_lr",
        partners={"optimizer.lr": "steplaw_lr"},
        caution=_CAUTION,
    )

    def at(self, scale: Scale) -> float:
        """0.58 D^0.571, times `times`."""
        fit = self.published
        return self.times * fit.value("coefficient") * scale.n_tokens ** fit.value("n_tokens")
