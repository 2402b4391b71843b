"""Two ways to spend one budget: tune on the big model, or find it with small ones.

    old  T = F + n s F    n trials of the big model, each a share s of its full length; so
         F = T / (1 + n s)
    new  T = F + S        a sweep of small models of S FLOPs; so F = T - S

T all FLOPs; F FLOPs left for the final run. A trial costs s F because it is the same model for a
share of the steps. Everything here is assumed: n and s are the reader's, and that both ways end
with equally good hyperparameters is not claimed.

Not here: which loss F buys (allocate.py), the measured comparison (analysis/old_vs_new.py).
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

from scalelab.errors import PlanError
from scalelab.units import sci


@dataclass(frozen=True)
class Pipelines:
    """What the old way and the new way leave for the final run out of the same total."""

    total_flops: float
    trials: int
    trial_share: float
    """Length of a trial over that of the full run."""
    sweep_flops: float
    old_tuning_flops: float
    old_final_flops: float
    new_final_flops: float
    status: str = "assumed"

    @property
    def ratio(self) -> float:
        """Final-run FLOPs of the new way over those of the old."""
        return self.new_final_flops / self.old_final_flops

    @property
    def words(self) -> str:
        """The comparison as a sentence."""
        return (
            f"of {sci(self.total_flops)} FLOPs in all, tuning the big model with {self.trials} "
            f"trials of {self.trial_share:.3g} of its length leaves {sci(self.old_final_flops)} "
            f"for the final run, the sweep of {sci(self.sweep_flops)} leaves "
            f"{sci(self.new_final_flops)}: {self.ratio:.3g} times as much [{self.status}]"
        )

    def to_json(self) -> dict[str, Any]:
        """The record as JSON types."""
        return {**asdict(self), "ratio": self.ratio, "words": self.words}


def pipelines(
    total_flops: float, *, sweep_flops: float, trials: int, trial_share: float
) -> Pipelines:
    """Both ways with the same total.

    Args:
        total_flops: Of the whole project.
        sweep_flops: What the sweep took, with its failed runs.
        trials: Runs of the big model that the old way tunes on; 0 for none.
        trial_share: Length of each over that of the full run, up to 1.

    Raises:
        PlanError: A figure that cannot be, or a sweep that takes all of the total.
    """
    for name, value, good in (
        ("total_flops", total_flops, 0 < total_flops < math.inf),
        ("sweep_flops", sweep_flops, 0 <= sweep_flops < math.inf),
        ("trials", trials, trials >= 0 and trials == trials // 1),
        ("trial_share", trial_share, 0 < trial_share <= 1),
    ):
        if not good:
            raise PlanError(
                f"{name} is {value}",
                where="the old pipeline beside the new",
                fix="name positive FLOPs, a whole number of trials, and a share above 0 and up "
                "to 1",
            )
    if sweep_flops >= total_flops:
        raise PlanError(
            f"the sweep took {sci(sweep_flops)} FLOPs of a total of {sci(total_flops)}: nothing "
            "is left for a final run",
            where="the old pipeline beside the new",
            fix="name a larger total",
        )
    old = total_flops / (1 + trials * trial_share)
    return Pipelines(
        total_flops=total_flops,
        trials=trials,
        trial_share=trial_share,
        sweep_flops=sweep_flops,
        old_tuning_flops=total_flops - old,
        old_final_flops=old,
        new_final_flops=total_flops - sweep_flops,
    )
