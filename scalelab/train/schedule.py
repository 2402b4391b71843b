"""Learning-rate schedules, each matched to the run's own length.

A schedule is a factor on the peak rate at each step. Both warm up over a share of the run,
because a warmup fixed in steps eats the small runs and bends the law (Porian et al. 2024,
arXiv:2406.19146). Both end at (or near) zero, because a loss read before the rate has come
down is not the loss of a finished run (Hoffmann et al. 2022, appendix B).

Runs of one size that differ in their tokens alone can share their steps at the constant rate: a trunk.
Each run is a branch, which leaves the trunk where its cooldown begins:

    steps of a branch    n
    leaves the trunk at  n - round(cooldown n)
    warmup               the same number of steps in every branch: warmup x the shortest branch

Not here: which runs share a trunk (recipe.py), how one is trained (trunk.py).
"""

import math
from typing import Literal, Protocol, Self

from pydantic import Field, model_validator

from scalelab.config import Config, Count, Fraction, Switch


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
    trunk: Switch = Field(False, json_schema_extra={"since": 2})
    """Whether runs of one size and seed share their steps up to the cooldown (trunk.py). The batch and the
    rates are then the same at all token counts of a size: see Recipe.specs."""
    warmup_steps: Count | None = Field(None, json_schema_extra={"since": 2})
    """Steps of the warmup, whatever the length of the run; None: by its share. Set in the branches of a trunk,
    which share it."""

    @model_validator(mode="after")
    def _phases_fit(self) -> Self:
        if self.warmup + self.cooldown > 1 + 1e-12:
            raise ValueError(f"warmup {self.warmup} and cooldown {self.cooldown} overlap: together over 1")
        if self.trunk and self.warmup + self.cooldown >= 1:
            raise ValueError(
                f"warmup {self.warmup} and cooldown {self.cooldown} leave no stable phase, so there is no trunk to "
                "share: lower the cooldown (0.3 is tested), or set trunk to false"
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
        cool = round(self.cooldown * n_steps)
        if self.warmup_steps is None:
            return {"warmup": round(self.warmup * n_steps), "cooldown": cool}
        return {"warmup": min(self.warmup_steps, n_steps - cool), "cooldown": cool}

    def stable_end(self, n_steps: int) -> int:
        """Steps of a run of n_steps before its cooldown: where a branch leaves its trunk."""
        return n_steps - self.phases(n_steps)["cooldown"]

    def branch(self, shortest_steps: int) -> Self:
        """The schedule of every branch of a trunk whose shortest branch has so many steps."""
        if self.warmup_steps is not None:
            return self
        return self.model_copy(update={"warmup_steps": max(1, round(self.warmup * shortest_steps))})

    def alone(self) -> Self:
        """Schedule of a run that shares nothing: its warmup is a share of its own length."""
        return self.model_copy(update={"trunk": False, "warmup_steps": None})

    def constant(self) -> Self:
        """The schedule of the trunk of this branch: its warmup, then the constant rate to the end."""
        return self.model_copy(update={"cooldown": 0.0, "shape": "linear"})

    def problem(self, n_steps: int) -> str | None:
        """Why a run of n_steps cannot have this schedule; None where it can."""
        if self.warmup_steps is None:
            return "a branch of a trunk states warmup_steps, which its trunk shares" if self.trunk else None
        if self.warmup_steps <= self.stable_end(n_steps):
            return None
        return (
            f"a warmup of {self.warmup_steps} steps does not fit into the {self.stable_end(n_steps)} steps that a "
            f"run of {n_steps} steps has before its cooldown"
        )


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
