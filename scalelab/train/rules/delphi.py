"""The two recipes of the Delphi suite: the one that failed and the one that held. Literature.

    adamc_lr       lr = 0.33 sqrt(B) / d                                        first attempt, AdamC
    delphi_lr      lr = min(0.01, 0.00630 sqrt(B / 64) (2.5e9 / D)^0.3)             Delphi, AdamH
    delphi_beta2   beta2 = 0.9999^(B / 64), within [0.9, 0.9999]

B is the batch in windows of 4096 tokens, read as batch_tokens / 4096 whatever the recipe's window
is, because noise goes by tokens. d is the width. AdamH holds the norm of every matrix, so that the
rate of delphi_lr does not fall with the width and there is no decay to scale. Warmup 10%, linear
decay over the last 20%, to zero.

The first attempt fitted small runs cleanly, was 2.5% off at 1e22 FLOPs and diverged at 1e23: neither
its rate nor its decay followed the tokens. It is here as a reference, with a caution in every plan.
The two are often quoted as one rule (0.33 sqrt(B) / d with a horizon factor); neither is that.

Sources: https://openathena.ai/blog/delphi; github.com/marin-community/marin,
experiments/references/completed_adamh.py and experiments/scaling_law_sweeps/c_adamc.py.
"""

from typing import Any, ClassVar, Literal

from scalelab.config import Positive
from scalelab.train.rules.base import FittedRange, PublishedFit, Rule, RuleConstant, Scale

WINDOW = 4096
"""Tokens of a sequence in which B is counted."""
_SOURCE = "Marin 2026 (Delphi), https://openathena.ai/blog/delphi"
_CHECKED = "the code of its launchers"
_RANGES = (FittedRange("flops", 3e18, 3e20, "FLOPs", "the report"),)
_SCHEDULE = {"kind": "wsd", "warmup": 0.1, "cooldown": 0.2, "shape": "linear"}


class DelphiLr(Rule):
    """Peak rate of the matrices whose norm is held."""

    kind: Literal["delphi_lr"] = "delphi_lr"
    times: Positive = 1.0
    """Multiple of the rate of the recipe."""
    published: ClassVar = PublishedFit(
        family="Delphi",
        formula="lr = min(0.01, 0.0063 sqrt(B / 64) (2.5e9 / D)^0.3), B in windows of 4096 tokens",
        source=_SOURCE,
        constants={
            "base": RuleConstant(0.0063, _CHECKED),
            "batch_ref": RuleConstant(64, _CHECKED),
            "tokens_ref": RuleConstant(2.5e9, _CHECKED),
            "exponent": RuleConstant(0.3, f"{_CHECKED} and the report"),
            "most": RuleConstant(0.01, _CHECKED),
        },
        optimizers=("adamh",),
        ranges=_RANGES,
        co_scales="beta2 by delphi_beta2; warmup 10%, linear decay over 20%; no weight decay",
        partners={"optimizer.beta2": "delphi_beta2"},
        is_whole_rate=True,
    )

    def at(self, scale: Scale) -> float:
        """0.0063 sqrt(B / 64) (2.5e9 / D)^0.3, times `times`, at most 0.01."""
        fit = self.published
        windows = scale.batch_tokens / WINDOW
        horizon = (fit.value("tokens_ref") / scale.n_tokens) ** fit.value("exponent")
        rate = fit.value("base") * (windows / fit.value("batch_ref")) ** 0.5 * horizon
        return min(fit.value("most"), self.times * rate)

    def mismatch(self, recipe: Any) -> str | None:
        """Return what of the schedule is not that of the recipe that it is from."""
        return schedule_mismatch(recipe.schedule)


class DelphiBeta2(Rule):
    """Decay of the second moment, with a half-life that is constant in tokens."""

    kind: Literal["delphi_beta2"] = "delphi_beta2"
    published: ClassVar = PublishedFit(
        family="Delphi",
        formula="beta2 = 0.9999^(B / 64) within [0.9, 0.9999], B in windows of 4096 tokens",
        source=_SOURCE,
        constants={
            "base": RuleConstant(0.9999, _CHECKED),
            "batch_ref": RuleConstant(64, _CHECKED),
            "least": RuleConstant(0.9, _CHECKED),
            "most": RuleConstant(0.9999, _CHECKED),
        },
        optimizers=("adamh",),
        ranges=_RANGES,
        co_scales="the rate by delphi_lr",
        partners={"optimizer.lr": "delphi_lr"},
    )

    def at(self, scale: Scale) -> float:
        """0.9999^(B / 64), within [0.9, 0.9999]."""
        fit = self.published
        value = fit.value("base") ** (scale.batch_tokens / WINDOW / fit.value("batch_ref"))
        return max(fit.value("least"), min(fit.value("most"), value))


class AdamCLr(Rule):
    """Peak rate of Delphi's first attempt, which did not follow the tokens of the run."""

    kind: Literal["adamc_lr"] = "adamc_lr"
    times: Positive = 1.0
    """Multiple of the rate of the recipe."""
    published: ClassVar = PublishedFit(
        family="Delphi, first attempt",
        formula="lr = 0.33 sqrt(B) / width, B in windows of 4096 tokens",
        source=_SOURCE,
        constants={"coefficient": RuleConstant(0.33, _CHECKED)},
        optimizers=("adamc",),
        ranges=_RANGES,
        co_scales="beta2 = 0.98^(B / 128); warmup 10%, linear decay over 20%; weight decay 0.1",
        is_whole_rate=True,
        caution="Its forecast was 2.5% off at 1e22 FLOPs and the run at 1e23 diverged: it does not follow D.",
    )

    def at(self, scale: Scale) -> float:
        """0.33 sqrt(B) / width, times `times`."""
        windows = scale.batch_tokens / WINDOW
        return self.times * self.published.value("coefficient") * windows**0.5 / scale.width

    def mismatch(self, recipe: Any) -> str | None:
        """Return what of the schedule is not that of the recipe that it is from."""
        return schedule_mismatch(recipe.schedule)


def schedule_mismatch(schedule: Any) -> str | None:
    """Return what of a schedule differs from warmup 10%, linear decay over 20%; None where nothing does."""
    differs = [
        f"{name} {getattr(schedule, name, 'unset')}, not {value}"
        for name, value in _SCHEDULE.items()
        if getattr(schedule, name, None) != value
    ]
    return f"the schedule has {', '.join(differs)}" if differs else None
