"""Learning-rate schedules, each matched to the run's own length.

A schedule is a factor on the peak rate at each step. Both warm up over a share of the run,
because a warmup fixed in steps eats the small runs and bends the law (Porian et al. 2024,
arXiv:2406.19146). Both end at (or near) zero, because a loss read before the rate has come
down is not the loss of a finished run (Hoffmann et al. 2022, appendix B).
"""

import math
from typing import Literal, Protocol, Self

from pydantic import model_validator

from scalelab.config import Config, Fraction


class Schedule(Protocol):
    """What the loop asks of a schedule."""

    def factor(self, step: int, n_steps: int) -> float:
        """Factor on the peak rate at `step`, 0 to n_steps - 1."""

    def phases(self, n_steps: int) -> dict[str, int]:
        """Steps of each of its phases but the stable one, by name, for a plan."""


class WSD(Config):
    """Warmup, stable, cooldown. With warmup + cooldown = 1 there is no stable phase.

    Source: Hu et al. 2024 (MiniCPM), arXiv:2404.06395; Haegele et al. 2024,
    arXiv:2405.18392, for the share and the (1 - sqrt) shape of the cooldown.
    """

    kind: Literal["wsd"] = "wsd"
    warmup: Fraction = 0.1
    """Share of the steps over which the rate rises from zero."""
    cooldown: Fraction = 0.2
    """Share of the steps over which the rate falls to zero."""
    shape: Literal["linear", "sqrt"] = "linear"
    """How it falls: linearly, or as 1 - sqrt of the share done."""

    @model_validator(mode="after")
    def _phases_fit(self) -> Self:
        if self.warmup + self.cooldown > 1 + 1e-12:
            raise ValueError(
                f"warmup {self.warmup} and cooldown {self.cooldown} overlap: together over 1"
            )
        return self

    def factor(self, step: int, n_steps: int) -> float:
        """Factor on the peak rate at `step`."""
        warm, cool = self.phases(n_steps).values()
        if step < warm:
            return (step + 1) / warm
        left = n_steps - step
        if left > cool:
            return 1.0
        return left / cool if self.shape == "linear" else 1 - math.sqrt(1 - left / cool)

    def phases(self, n_steps: int) -> dict[str, int]:
        """Steps of warmup and of cooldown."""
        return {name: round(getattr(self, name) * n_steps) for name in ("warmup", "cooldown")}


class Cosine(Config):
    """Warmup, then half a cosine down to a share of the peak."""

    kind: Literal["cosine"] = "cosine"
    warmup: Fraction = 0.1
    final: Fraction = 0.0
    """Share of the peak that is left at the end."""

    def factor(self, step: int, n_steps: int) -> float:
        """Factor on the peak rate at `step`."""
        warm = self.phases(n_steps)["warmup"]
        if step < warm:
            return (step + 1) / warm
        done = (step - warm) / max(1, n_steps - warm)
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * done))

    def phases(self, n_steps: int) -> dict[str, int]:
        """Steps of warmup."""
        return {"warmup": round(self.warmup * n_steps)}
