"""DeepSeek LLM's rules: rate and batch as powers of compute. Literature.

    lr    = 0.3118 C^-0.1250
    batch = 0.2920 C^0.3271 tokens        C = M D, M FLOPs per training token without the head

Source: Bi et al. 2024 (DeepSeek LLM), arXiv:2401.02954; fitted with AdamW and a
multi-step schedule at the compute-optimal ratio of N and D.
"""

from typing import ClassVar, Literal

from scalelab.config import Positive
from scalelab.train.rules.base import FittedRange, PublishedFit, Rule, RuleConstant, Scale

_SOURCE = "Bi et al. 2024 (DeepSeek LLM), arXiv:2401.02954"
_CHECKED = "an earlier reading of the paper"
_RANGES = (FittedRange("flops_non_embedding", 1e17, 2e19, "FLOPs without the head"),)


class DeepSeekLr(Rule):
    """Peak rate."""

    kind: Literal["deepseek_lr"] = "deepseek_lr"
    times: Positive = 1.0
    """Multiple of the rate of the law."""
    published: ClassVar = PublishedFit(
        family="DeepSeek",
        formula="lr = 0.3118 C^-0.125",
        source=_SOURCE,
        constants={"coefficient": RuleConstant(0.3118, _CHECKED), "flops": RuleConstant(-0.125, _CHECKED)},
        optimizers=("adamw",),
        ranges=_RANGES,
        co_scales="the batch rises with C by deepseek_batch; N and D are compute-optimal",
        partners={"batch": "deepseek_batch"},
        is_whole_rate=True,
    )

    def at(self, scale: Scale) -> float:
        """0.3118 C^-0.125, times `times`."""
        fit = self.published
        return self.times * fit.value("coefficient") * scale.flops_non_embedding ** fit.value("flops")


class DeepSeekBatch(Rule):
    """Tokens of a step."""

    kind: Literal["deepseek_batch"] = "deepseek_batch"
    times: Positive = 1.0
    """Multiple of the batch of the law."""
    published: ClassVar = PublishedFit(
        family="DeepSeek",
        formula="batch = 0.2920 C^0.3271 tokens",
        source=_SOURCE,
        constants={"coefficient": RuleConstant(0.292, _CHECKED), "flops": RuleConstant(0.3271, _CHECKED)},
        optimizers=("adamw",),
        ranges=_RANGES,
        co_scales="the rate falls with C by deepseek_lr; N and D are compute-optimal",
        partners={"optimizer.lr": "deepseek_lr"},
    )

    def at(self, scale: Scale) -> float:
        """0.2920 C^0.3271, times `times`."""
        fit = self.published
        return self.times * fit.value("coefficient") * scale.flops_non_embedding ** fit.value("flops")
