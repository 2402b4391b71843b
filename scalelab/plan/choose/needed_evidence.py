"""The runs that would support a forecast at a target compute, and what they cost.

    reach that the evidence supports    r = min(TOO_FAR, exp(2 TOLERANCE / c)),   c = error per ln of reach
    largest budget that is needed       target / r, and at least one budget more
    budgets                             from the largest in evidence up to that, at most FACTOR apart
    sizes of each budget                as many as the budgets in evidence have, around its N*

c is the growth of the hold-out's error of the loss; without a hold-out r is TOO_FAR. The number of
FLOPs is the sum of all runs; the time is that of one run after another on the device that was timed.

What it cannot know: whether the larger runs follow the law. It is the least that the grades of
study/verdict.py ask for.

Source: bounds on reach, study/verdict.py and study/holdout.py.

Not here: the reasons against a forecast (study/verdict.py, forecast/gate.py).
"""

import math
from dataclasses import dataclass

import numpy as np

from scalelab.laws.observations import Observations
from scalelab.study.holdout import TOLERANCE, HoldOut
from scalelab.study.study import Study
from scalelab.study.verdict import TOO_FAR
from scalelab.units import duration, multiple, sci, si

FACTOR = 4.0
"""Largest ratio of neighbouring budgets."""
LISTED = 4
"""Budgets that are listed one by one."""
SIZES, SPAN = 5, 6.0
"""Sizes of a budget, and largest over smallest size, where the evidence has no budgets."""


@dataclass(frozen=True)
class NeededEvidence:
    """Budgets to be added to the evidence, with their sizes and cost."""

    budgets: tuple[float, ...]
    """Training FLOPs of one run of each budget, ascending."""
    sizes: int
    """Runs of each budget."""
    n_params: tuple[float, float]
    """Smallest and largest size over all budgets, in the count of the study."""
    seconds: float | None = None
    """Time of all runs one after another, seconds; None where no throughput was measured."""
    device: str | None = None
    """Device of that time."""

    @property
    def flops(self) -> float:
        """Training FLOPs of all runs."""
        return self.sizes * sum(self.budgets)

    def __str__(self) -> str:
        time = "time unknown"
        if self.seconds is not None:
            time = f"about {duration(self.seconds)} on one {self.device}"
        first, last = self.budgets[0], self.budgets[-1]
        budgets = f"{len(self.budgets)} more budgets of {', '.join(map(sci, self.budgets))} FLOPs, each"
        if len(self.budgets) == 1:
            budgets = f"one more budget of {sci(first)} FLOPs"
        elif len(self.budgets) > LISTED:
            apart = f"{multiple(self.budgets[1] / first)} apart"
            budgets = (
                f"{len(self.budgets)} more budgets from {sci(first)} to {sci(last)} FLOPs, {apart}, each"
            )
        low, high = self.n_params
        return (
            f"{budgets} with {self.sizes} sizes (from {si(low)} to {si(high)} parameters): {sci(self.flops)} "
            f"FLOPs, {time}"
        )


def needed_evidence(
    study: Study, flops: float, flops_per_s: float | None = None, device: str | None = None
) -> NeededEvidence:
    """Return the budgets whose runs would support a forecast.

    Args:
        study: The fitted laws.
        flops: Training FLOPs of the forecast.
        flops_per_s: Measured throughput of one run, FLOPs per second; None where unknown.
        device: Device of that throughput.
    """
    runs = study.runs
    largest = runs.largest_budget
    least = min(_ratio(runs), math.sqrt(max(flops / largest, 1.2)))  # a budget more, below the target
    top = max(flops / _supported_reach(study), largest * least)
    steps = max(1, math.ceil(math.log(top / largest) / math.log(FACTOR) - 1e-9))
    budgets = tuple(float(largest * (top / largest) ** (k / steps)) for k in range(1, steps + 1))
    sizes, span = _sizes(runs)
    ends = _size_range(study, budgets, span)
    found = NeededEvidence(budgets, sizes, ends)
    if flops_per_s is None:
        return found
    return NeededEvidence(budgets, sizes, ends, found.flops / flops_per_s, device)


def _supported_reach(study: Study) -> float:
    """Largest reach at which the error that the hold-outs predict is not a grave reason."""
    tested = study.holdout
    growth = tested.expected_error(study.forecast.law, math.e) if isinstance(tested, HoldOut) else None
    if not growth or growth * math.log(TOO_FAR) <= 2 * TOLERANCE:
        return TOO_FAR
    return math.exp(2 * TOLERANCE / growth)


def _ratio(runs: Observations) -> float:
    """Ratio of the next budget to the largest: that of the two largest, 2 to FACTOR."""
    budgets = runs.budgets
    if len(budgets) < 2:
        return 2.0
    return float(np.clip(budgets[-1] / budgets[-2], 2.0, FACTOR))


def _size_range(study: Study, budgets: tuple[float, ...], span: float) -> tuple[float, float]:
    """Smallest and largest size of the budgets, around their N*; as in evidence where N* is unknown."""
    best = study.fits[study.forecast.law].optimum(np.array([budgets[0], budgets[-1]]))
    N = np.ravel(best.N) if best is not None else np.array([np.nan])
    if not (np.isfinite(N) & (N > 0)).all():
        return float(study.runs.N.min()), float(study.runs.N.max())
    return float(N.min() / math.sqrt(span)), float(N.max() * math.sqrt(span))


def _sizes(runs: Observations) -> tuple[int, float]:
    """Number of sizes of a budget and their span, as in the evidence."""
    by_budget = [np.unique(runs.N[runs.flops_planned == C]) for C in runs.budgets]
    spans = [sizes[-1] / sizes[0] for sizes in by_budget if len(sizes) > 1]
    if not spans:
        return SIZES, SPAN
    return max(SIZES, int(np.median([len(sizes) for sizes in by_budget]))), float(np.median(spans))
