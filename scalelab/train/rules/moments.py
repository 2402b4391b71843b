"""Rules of decays: of the weights, and of the second moment.

    decay_timescale   lambda = B / (lr D tau),  tau = 1.084 (D / N)^-0.527
    decay_width       lambda = base (width / width_ref)^e,  e = 1 or 1/2
    half_life         beta = 2^(-B / half_life)

B batch in tokens, D tokens, N parameters by the recipe's count, lr the peak rate of matrices, tau the
share of the run over which weights are averaged. half_life is in tokens: a moment remembers the
same text whatever the batch.

With rates that fall as 1 / width, e = 1 keeps lr x lambda the same at every width, as muP and
CompleteP have it; e = 1/2 keeps the gain of a block the same once training is steady. They
contradict one another and both are published: measure which one transfers.

Sources: Bergsma et al. 2025 (Power Lines), arXiv:2505.13738, after Wang & Aitchison 2024,
arXiv:2405.13698; Fan et al. 2025, arXiv:2510.15262 (e = 1/2); Dey et al. 2025 (CompleteP),
arXiv:2505.01618 (e = 1); Marek et al. 2025, arXiv:2507.07101 (half-life).
"""

from typing import Any, ClassVar, Literal

from scalelab.config import NonNegative, Positive
from scalelab.train.rules.base import FittedRange, PublishedFit, Rule, RuleConstant, Scale
from scalelab.train.rules.power import WidthRule

_SECONDARY = "secondary accounts of the paper, not its text"


class DecayTimescaleRule(Rule):
    """Decoupled weight decay from the averaging timescale of AdamW."""

    kind: Literal["decay_timescale"] = "decay_timescale"
    times: Positive = 1.0
    """Multiple of the decay of the law."""
    reads_rate: ClassVar = True
    published: ClassVar = PublishedFit(
        family="Power Lines",
        formula="lambda = B / (lr D tau), tau = 1.084 (D / N)^-0.527",
        source="Bergsma et al. 2025, arXiv:2505.13738",
        constants={
            "coefficient": RuleConstant(1.084, _SECONDARY),
            "exponent": RuleConstant(-0.527, _SECONDARY),
        },
        optimizers=("adamw",),
        ranges=(
            FittedRange("n_params", 1.11e8, 3.3e9, "parameters", "an account of the paper, not its text"),
        ),
        co_scales="the rate by muP with width; the decay follows the rate, the batch and D",
    )

    def at(self, scale: Scale) -> float:
        """B / (lr D tau), times `times`."""
        fit = self.published
        tau = fit.value("coefficient") * (scale.n_tokens / scale.n_params) ** fit.value("exponent")
        return self.times * scale.batch_tokens / (scale.learning_rate * scale.n_tokens * tau)


class DecayWidthRule(Rule):
    """Decoupled weight decay that rises with the width, beside rates that fall as 1 / width."""

    kind: Literal["decay_width"] = "decay_width"
    base: NonNegative
    """Decay at width_ref."""
    width_ref: Positive
    variant: Literal["linear", "sqrt"]
    """linear: e = 1, lr x lambda stays the same. sqrt: e = 1/2, the gain of a block does."""

    def at(self, scale: Scale) -> float:
        """The product base (width / width_ref)^e."""
        return self.base * (scale.width / self.width_ref) ** (1.0 if self.variant == "linear" else 0.5)

    def mismatch(self, recipe: Any) -> str | None:
        """Return how the rate falls with the width where that is not as 1 / width."""
        optimizer = recipe.optimizer
        lr, exponent = getattr(optimizer, "lr", None), getattr(optimizer, "width_exponent", 0.0)
        if isinstance(exponent, Rule):
            return "the rate of matrices falls with the width by a rule, not as 1 / width"
        exponent += lr.exponent if isinstance(lr, WidthRule) else 0.0
        if exponent == 1.0:
            return None
        return f"the rate of matrices falls as width^-{exponent:g}, not as 1 / width"


class HalfLifeRule(Rule):
    """Decay rate of a moment, whose half-life is a number of tokens."""

    kind: Literal["half_life"] = "half_life"
    tokens: Positive
    """Half-life in tokens."""

    def at(self, scale: Scale) -> float:
        """2^(-B / tokens)."""
        return 2.0 ** (-scale.batch_tokens / self.tokens)
