"""Comparison of two pipelines with one budget: tune the large model, or fit laws to small ones.

    old  T = F + n s F    n trials of the large model, each a share s of its full length; so
         F = T / (1 + n s)
    new  T = F + S        a sweep of small models of S FLOPs; so F = T - S

T total FLOPs; F FLOPs left for the final run. A trial costs s F because it is the same model for a
share of the steps. All of this is assumed: n and s are inputs, and equally good hyperparameters
are not claimed for both.

Not here: the loss that F reaches (choose/allocate.py), the measured comparison
(analysis/old_vs_new.py).
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

from scalelab.errors import PlanError
from scalelab.units import multiple, sci


@dataclass(frozen=True)
class PipelineComparison:
    """Compute left for the final run from the same total, with tuning trials and with a sweep."""

    total_flops: float
    trials: int
    trial_share: float
    """Length of a trial as a share of the full run."""
    sweep_flops: float
    old_tuning_flops: float
    old_final_flops: float
    new_final_flops: float
    status: str = "assumed"

    @property
    def ratio(self) -> float:
        """FLOPs of the final run after a sweep over those after tuning trials."""
        return self.new_final_flops / self.old_final_flops

    @property
    def words(self) -> str:
        """Comparison as a sentence."""
        return (
            f"of {sci(self.total_flops)} FLOPs in total, tuning the large model with {self.trials} "
            f"trials of {self.trial_share:.0%} of its length leaves {sci(self.old_final_flops)} for the "
            f"final run and the sweep of {sci(self.sweep_flops)} leaves {sci(self.new_final_flops)}, "
            f"{multiple(self.ratio)} as much [{self.status}]"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON types."""
        return {**asdict(self), "ratio": self.ratio, "words": self.words}


def pipelines(
    total_flops: float, *, sweep_flops: float, trials: int, trial_share: float
) -> PipelineComparison:
    """Return the comparison of both pipelines with the same total.

    Args:
        total_flops: FLOPs of the whole project.
        sweep_flops: FLOPs of the sweep, its failed runs included.
        trials: Number of tuning trials of the large model; 0 for none.
        trial_share: Length of a trial as a share of the full run, up to 1.

    Raises:
        PlanError: A value is out of range, or the sweep takes all of the total.
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
                where="the baseline cost comparison",
                fix="give positive FLOPs, a whole number of trials, and a share above 0 and up to 1",
            )
    if sweep_flops >= total_flops:
        raise PlanError(
            f"the sweep took {sci(sweep_flops)} FLOPs of a total of {sci(total_flops)}: nothing "
            "is left for a final run",
            where="the baseline cost comparison",
            fix="give a larger total",
        )
    old = total_flops / (1 + trials * trial_share)
    return PipelineComparison(
        total_flops=total_flops,
        trials=trials,
        trial_share=trial_share,
        sweep_flops=sweep_flops,
        old_tuning_flops=total_flops - old,
        old_final_flops=old,
        new_final_flops=total_flops - sweep_flops,
    )
