"""Compute multipliers as far as the runs of the baseline reach: a number, or a bound where it lies beyond them.

    a number   min(C, C_low) / R <= m C <= R max(C, C_high)
    a bound    elsewhere: m above the lower end of its interval, or above R max(C, C_high) / C where that is less

m      multiplier: the baseline has the loss of the other recipe at m C FLOPs
C      training FLOPs of the other recipe
C_low, C_high   least and largest compute of the baseline's runs
R      reach: factor to which runs are extrapolated, 10 unless another is asked for

Why a factor, and no larger one. The loss falls towards a floor that runs of a few budgets hardly determine. Where the
loss to be matched lies near it, m grows without bound while the loss changes by less than the noise between seeds, so
its number is that of the floor and the priors. Ten times the compute is as far as crossings are looked for, too; the
factor itself is a choice.

Not here: multipliers and their intervals (pairwise.py), their words (report/comparison/).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True)
class BoundedMultiplier:
    """A multiplier with its interval, as far as runs support them."""

    value: float | None
    """The multiplier; None: beyond the runs."""
    low: float | None
    """Lower end of its interval; None: beyond the runs."""
    high: float | None
    """Upper end, likewise."""
    above: float | None = None
    """Bound of a multiplier without a value: it is more than this."""
    below: float | None = None
    """Likewise: it is less than this. Neither where the interval passes both ends of what runs support."""

    @classmethod
    def of(
        cls, value: float, interval: Sequence[float], C: float, evidence: tuple[float, float], reach: float
    ) -> Self:
        """Return a multiplier within what runs support.

        Args:
            value: As fitted.
            interval: Both ends, as fitted.
            C: Compute of the other recipe, FLOPs.
            evidence: Least and largest compute of the baseline's runs, FLOPs.
            reach: Factor to which they are extrapolated.
        """
        least, most = limits(C, evidence, reach)
        low, high = (end if least <= end <= most else None for end in interval)
        if least <= value <= most:
            return cls(value, low, high)
        if value > most:
            above = min(float(interval[0]), most)
            return cls(None, low, None, above=above if above >= least else None)
        below = max(float(interval[1]), least)
        return cls(None, None, high, below=below if below <= most else None)

    def to_json(self, prefix: str = "") -> dict[str, Any]:
        """The multiplier as JSON types.

        Args:
            prefix: What its names begin with, such as measured_.
        """
        return {
            f"{prefix}multiplier": self.value,
            f"{prefix}multiplier_above": self.above,
            f"{prefix}multiplier_below": self.below,
            f"{prefix}interval": [self.low, self.high],
        }


def limits(C: float, evidence: tuple[float, float], reach: float) -> tuple[float, float]:
    """Return the least and the largest multiplier at C FLOPs that have a number."""
    least, most = evidence
    return min(C, least) / (reach * C), reach * max(C, most) / C
