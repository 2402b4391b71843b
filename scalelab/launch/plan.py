"""A sweep before it starts: every run with its size, steps and cost, and what exists already.

planned   asked for by the design, nothing on the disk yet
resumes   begun, and goes on from its checkpoint
done      trained already, here or by another sweep: never trained again
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

from scalelab.jobs.base import Devices
from scalelab.launch import homes
from scalelab.launch.sweepfile import SweepFile
from scalelab.sweep.base import Proposal
from scalelab.train.rundir import RunDir
from scalelab.train.spec import RunSpec
from scalelab.units import duration, sci, si


@dataclass(frozen=True)
class PlannedWork:
    """One proposal, its place on the disk, and what stands there."""

    proposal: Proposal
    run_dir: RunDir
    state: Literal["planned", "resumes", "done"]
    seconds: float | None = None
    """Estimated training time in one slot; None is unknown."""


def place(
    proposals: tuple[Proposal, ...],
    root: Path,
    sweep: str,
    find: Callable[[RunSpec, Path, str], RunDir] = homes.find,
) -> list[PlannedWork]:
    """Each proposal with its run directory: its own, or that of a sweep that asked for it first.

    Args:
        proposals: What is asked for.
        root: Of all runs.
        sweep: Who asks.
        find: homes.find only looks; homes.settle writes down what it found.
    """
    return [_placed(proposal, find(proposal.spec, root, sweep)) for proposal in proposals]


def _placed(proposal: Proposal, run_dir: RunDir) -> PlannedWork:
    if run_dir.is_done:
        return PlannedWork(proposal, run_dir, "done")
    return PlannedWork(proposal, run_dir, "resumes" if run_dir.log_path.exists() else "planned")


def timing_specs(work: list[PlannedWork]) -> list[Proposal]:
    """The few proposals to time: smallest, middle and largest model of those still to train."""
    todo = sorted((w.proposal for w in work if w.state != "done"), key=_flops_per_token)
    picks = {0, len(todo) // 2, len(todo) - 1} if todo else set()
    return [todo[i] for i in sorted(picks)]


def estimate(
    work: list[PlannedWork], timed: list[Proposal], seconds_per_token: list[float] | None
) -> list[PlannedWork]:
    """The same work with seconds, interpolated in log FLOPs per token between timed runs."""
    if not timed or seconds_per_token is None:
        return work
    known = sorted(
        (math.log(_flops_per_token(p)), math.log(s))
        for p, s in zip(timed, seconds_per_token, strict=True)
    )
    return [PlannedWork(w.proposal, w.run_dir, w.state, _seconds(w, known)) for w in work]


def _seconds(work: PlannedWork, known: list[tuple[float, float]]) -> float:
    if work.state == "done":
        return 0.0
    x, (low, high) = math.log(_flops_per_token(work.proposal)), (known[0], known[-1])
    for left, right in pairwise(known):
        if left[0] <= x <= right[0]:
            low, high = left, right
    share = (x - low[0]) / (high[0] - low[0]) if high[0] > low[0] else 0.0
    return math.exp(low[1] + share * (high[1] - low[1])) * work.proposal.spec.n_tokens


def _flops_per_token(proposal: Proposal) -> float:
    return proposal.spec.model.size(proposal.spec.seq_len).flops_per_token


def describe(
    file: SweepFile,
    work: list[PlannedWork],
    *,
    n_train: int | None,
    devices: Devices | None,
) -> str:
    """The plan for eyes: one line a run, totals, time and cost.

    Args:
        file: What was asked for.
        work: What that comes to.
        n_train: Training tokens of the corpus; None where it is not prepared yet.
        devices: What the runs go to; None where nobody has looked.
    """
    seq_len, count = file.recipe.seq_len, file.recipe.param_count
    head = f"{'budget':>9} {'N':>7} {'asked':>7} {'shape':>10} {'D':>7} {'D/N':>6} {'batch':>6} "
    head += f"{'steps':>7} {'FLOPs':>8} {'epochs':>6} {'seed':>4} {'time':>8}  state"
    lines = [f"{file.name}: {file.question.strip()}", f"expected: {file.prediction.strip()}"]
    lines += [f"recipe: {file.recipe.describe()}", "", head]
    for w in work:
        spec, p = w.proposal.spec, w.proposal
        n = spec.model.size(seq_len).count(count)
        epochs = "?" if n_train is None else f"{spec.n_tokens / n_train:.2f}"
        shape = f"{spec.model.depth()}x{spec.model.width()}"
        time = "-" if w.state == "done" else "?" if w.seconds is None else duration(w.seconds)
        budget = "-" if p.flops_planned is None else sci(p.flops_planned)
        lines.append(
            f"{budget:>9} {si(n):>7} {si(p.n_params_planned):>7} {shape:>10} "
            f"{si(spec.n_tokens):>7} {spec.n_tokens / n:>6.1f} {spec.batch_tokens:>6} "
            f"{spec.n_steps:>7} {sci(p.flops):>8} {epochs:>6} {spec.seed:>4} {time:>8}  {w.state}"
        )
    todo = [w for w in work if w.state != "done"]
    if file.design.adaptive:
        lines.append("more runs follow from what these come to")
    lines.append("")
    lines.append(
        f"{len(work)} runs, {sci(sum(w.proposal.flops for w in work))} FLOPs planned; "
        f"{len(work) - len(todo)} done already; "
        f"{len(todo)} to train, {sci(sum(w.proposal.flops for w in todo))} FLOPs"
    )
    lines.append(_cost(file, todo, devices))
    return "\n".join(lines)


def _cost(file: SweepFile, todo: list[PlannedWork], devices: Devices | None) -> str:
    if not todo:
        return "nothing to train"
    seconds = [w.seconds for w in todo if w.seconds is not None]
    if devices is None or len(seconds) < len(todo):
        return "time: unknown (nothing was timed)"
    wall = max(sum(seconds) / devices.abreast, max(seconds))
    text = f"time: about {duration(wall)}, estimated from a few timed steps on {devices}"
    price = file.launch.price_per_device_hour
    if price is not None:
        cost = wall / 3600 * devices.n * price
        text += f"; cost about {cost:.2f} at {price} per device and hour"
    return text
