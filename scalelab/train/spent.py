"""What runs have spent, with the steps that branches of a trunk share counted once.

    flops    sum over runs of c (D - D_s)             +  sum over trunks of c max(D_s)
    seconds  sum over runs of t (1 - D_s / D) + e     +  sum over trunks of t D_s / D at the largest D_s

c FLOPs per token; D tokens of a run; D_s those of its trunk, 0 without one; t seconds of training of the whole
run, which are split by its tokens; e seconds of evaluation.

Not here: what runs will take (launch/trunk_jobs.py), what it costs (plan/cost/).
"""

from collections.abc import Iterable
from dataclasses import dataclass

from scalelab.train.spec import RunResult


@dataclass(frozen=True)
class Spent:
    """Compute and time of runs together."""

    flops: float
    """Training FLOPs by the exact count."""
    seconds: float
    """Seconds of training and evaluation."""


def spent(results: Iterable[RunResult | None]) -> Spent:
    """Return what was spent on the runs that have a result, each trunk counted once."""
    flops = seconds = 0.0
    trunks: dict[str, tuple[float, float]] = {}
    for result in results:
        if result is None:
            continue
        shared = result.flops_per_token * result.n_tokens_trunk
        shared_s = result.train_s * result.n_tokens_trunk / max(1, result.n_tokens)
        flops += result.flops - shared
        seconds += result.train_s - shared_s + result.eval_s
        if result.n_tokens_trunk:  # by the run that trained it: a trunk may have been trained in two lengths
            name = result.trunk_run or result.trunk or ""
            trunks[name] = max((shared, shared_s), trunks.get(name, (0.0, 0.0)))
    return Spent(
        flops + sum(found for found, _ in trunks.values()),
        seconds + sum(found for _, found in trunks.values()),
    )
