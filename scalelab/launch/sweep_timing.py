"""How long the runs of a sweep take here, from a few timed steps of some of its models.

    t(N) = seconds per token, measured at the smallest, middle and largest model still to be trained,
           interpolated in log FLOPs per token; beyond the largest that was timed, at its FLOPs per second

The measurement has a time limit, because a step of a large model can take minutes on a CPU. What was
not timed is listed with the reason.

Not here: the steps themselves (train/throughput.py), the plan (sweep_plan.py).
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from scalelab.jobs.base import Executor
from scalelab.launch.sweep_plan import PlannedJob
from scalelab.screen import progress
from scalelab.sweep.base import Proposal

LIMIT_S = 10.0
"""Seconds that the steps of all models take at most, beside the start of their processes; on a GPU, of each."""
COMPILE_S = 120.0
"""Further seconds for each model on a GPU, where it is compiled first."""
FUNCTION = "scalelab.train.throughput:seconds_per_token"


@dataclass(frozen=True)
class TimedModel:
    """One model of a sweep, timed or not."""

    proposal: Proposal
    seconds_per_token: float | None
    """Seconds of training per token in one slot; None: not timed."""
    reason: str = ""
    """Why it was not timed."""


@dataclass(frozen=True)
class SweepTiming:
    """Timed steps of some models of a sweep."""

    limit_s: float
    """Time limit of the measurement, seconds."""
    models: Sequence[TimedModel]
    """Models that were chosen to be timed, smallest first."""

    @property
    def known(self) -> list[tuple[float, float]]:
        """FLOPs per token and seconds per token of the models that were timed."""
        return [
            (_flops_per_token(m.proposal), m.seconds_per_token)
            for m in self.models
            if m.seconds_per_token is not None
        ]

    @property
    def not_timed(self) -> list[TimedModel]:
        """Models that were not timed."""
        return [m for m in self.models if m.seconds_per_token is None]


def time_runs(work: Sequence[PlannedJob], executor: Executor, limit_s: float) -> SweepTiming:
    """Time a few steps of the smallest, middle and largest model still to be trained, in this order.

    Args:
        work: Runs of the sweep.
        executor: Executor of the runs.
        limit_s: Time limit of the steps, seconds: of all models together, on a GPU of each.
    """
    ends = time.monotonic() + limit_s
    found: list[TimedModel] = []
    chosen = timing_proposals(work)
    for proposal in progress(chosen, "timing steps of the models (--no-timing to skip)") if chosen else ():
        left = limit_s if executor.devices.is_gpu else ends - time.monotonic()
        if not executor.capabilities.timing:
            found.append(TimedModel(proposal, None, "this executor cannot time runs"))
        elif found and found[-1].seconds_per_token is None:
            found.append(TimedModel(proposal, None, "a smaller model was not timed either"))
        elif left <= 0:
            found.append(TimedModel(proposal, None, _too_long(limit_s)))
        else:
            found.append(_timed(proposal, executor, left, limit_s))
    return SweepTiming(limit_s, found)


def _timed(proposal: Proposal, executor: Executor, left: float, limit_s: float) -> TimedModel:
    begun, wait = time.monotonic(), left + (COMPILE_S if executor.devices.is_gpu else 0.0)
    answer = executor.call(FUNCTION, proposal.spec.to_yaml(), left, limit_s=wait)
    if answer is not None:
        seconds, reason = answer
        return TimedModel(proposal, seconds, reason or ("" if seconds is not None else _too_long(limit_s)))
    is_late = time.monotonic() - begun >= wait
    return TimedModel(proposal, None, _too_long(limit_s) if is_late else "its process ended")


def _too_long(limit_s: float) -> str:
    return f"its steps take longer than the limit of {limit_s:g} s"


def timing_proposals(work: Sequence[PlannedJob]) -> list[Proposal]:
    """Return the proposals to time: smallest, middle and largest model still to be trained."""
    todo = sorted((w.proposal for w in work if w.state != "done"), key=_flops_per_token)
    picks = {0, len(todo) // 2, len(todo) - 1} if todo else set()
    return [todo[i] for i in sorted(picks)]


def estimate(work: Sequence[PlannedJob], timing: SweepTiming | None) -> list[PlannedJob]:
    """Return the work with its seconds; those stay unknown where no model was timed."""
    known = sorted(timing.known) if timing is not None else []
    if not known:
        return list(work)
    return [replace(w, seconds=_seconds(w, known)) for w in work]


def _seconds(work: PlannedJob, known: list[tuple[float, float]]) -> float:
    if work.state == "done":
        return 0.0
    flops = _flops_per_token(work.proposal)
    return _seconds_per_token(flops, known) * work.proposal.spec.n_tokens


def _seconds_per_token(flops: float, known: list[tuple[float, float]]) -> float:
    """Return seconds per token of a model of so many FLOPs per token, between or beyond the known."""
    (least, first), (most, last) = known[0], known[-1]
    if flops <= least:
        return first
    if flops >= most:
        return last * flops / most
    for (low, slow), (high, slower) in pairwise(known):
        if low <= flops <= high:
            share = math.log(flops / low) / math.log(high / low) if high > low else 0.0
            return slow * (slower / slow) ** share
    raise AssertionError("known is sorted")


def _flops_per_token(proposal: Proposal) -> float:
    return proposal.spec.model.size(proposal.spec.seq_len).flops_per_token
