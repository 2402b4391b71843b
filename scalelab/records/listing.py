"""What exists below the directory of all runs, as data: every sweep and post-training, its runs or stages.

    overview      every sweep and post-training with the states of its runs or stages
    list_runs     one sweep: each run with its state, result and position in its log
    list_stages   one post-training, likewise

What cannot be read has the state UNREADABLE and its problem; everything else is listed.

Not here: the text (report/listing/runs.py), the run table that laws are fitted to (run_table.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from scalelab.errors import RunError, ScalelabError
from scalelab.records.run_table import UNREADABLE, shown_table
from scalelab.records.stage_manifest import (
    PlannedStage,
    StageManifest,
    StageResult,
    list_posttrainings,
    stage_result,
)
from scalelab.records.status import state_of
from scalelab.records.sweep_manifest import PlannedRun, SweepManifest, list_sweeps
from scalelab.train.run_directory import RunDir, read_events


@dataclass(frozen=True)
class Summary:
    """One sweep or post-training in the overview."""

    name: str
    states: Sequence[str]
    """State of each run or stage."""
    problem: str | None = None
    """Why its manifest cannot be read; None: it was read."""


@dataclass(frozen=True)
class LogState:
    """Position and damage of the log of a run or stage."""

    step: int | None = None
    """Newest step; None if there is none."""
    n_bad: int = 0
    """Number of damaged lines that were skipped."""
    problem: str | None = None
    """Why the log cannot be read; None: it was read."""

    @classmethod
    def of(cls, run_dir: RunDir) -> "LogState":
        """Read the log of a run or stage."""
        try:
            events, _, n_bad = read_events(run_dir.log_path)
        except RunError as error:
            return cls(problem=error.problem)
        steps = [event["step"] for event in events if event["event"] == "step"]
        return cls(steps[-1] if steps else None, n_bad)


@dataclass(frozen=True)
class ListedRun:
    """One run of a sweep. Unknown numbers are None."""

    planned: PlannedRun
    state: str
    reason: str | None
    """Why it did not finish, or cannot be read."""
    trained_by: str | None
    """Sweep in whose directory it was trained, if that is another one."""
    flops_planned: float | None
    loss: float | None
    """Validation loss, nats per token."""
    bpb: float | None
    """Bits per byte."""
    tokens_per_s: float | None
    log: LogState


@dataclass(frozen=True)
class ListedSweep:
    """One sweep with its runs, in the order of its manifest."""

    manifest: SweepManifest
    runs: Sequence[ListedRun]


@dataclass(frozen=True)
class ListedStage:
    """One stage of a post-training."""

    planned: PlannedStage
    state: str
    reason: str | None
    """Why it did not finish, or cannot be read."""
    result: StageResult | None
    log: LogState


@dataclass(frozen=True)
class ListedPosttraining:
    """One post-training with its stages, in the order of its manifest."""

    manifest: StageManifest
    stages: Sequence[ListedStage]


def overview(root: Path) -> tuple[list[Summary], list[Summary]]:
    """Return every sweep and every post-training below the directory of all runs."""
    sweeps = [
        _summary(name, lambda name: list(shown_table(root, name)["status"])) for name in list_sweeps(root)
    ]
    posttrainings = [
        _summary(name, lambda name: [stage.state for stage in list_stages(root, name).stages])
        for name in list_posttrainings(root)
    ]
    return sweeps, posttrainings


def _summary(name: str, states: Callable[[str], list[str]]) -> Summary:
    try:
        return Summary(name, states(name))
    except ScalelabError as error:
        return Summary(name, [], error.problem)


def list_runs(root: Path, sweep: str) -> ListedSweep:
    """Return every run of a sweep.

    Raises:
        TrackError: There is no such sweep, or its manifest cannot be read.
    """
    manifest, table = SweepManifest.load(root, sweep), shown_table(root, sweep)
    rows = zip(manifest.runs, table.iterrows(), strict=True)
    return ListedSweep(manifest, [_listed_run(root, sweep, planned, row) for planned, (_, row) in rows])


def _listed_run(root: Path, sweep: str, planned: PlannedRun, row: pd.Series) -> ListedRun:
    def number(name: str) -> float | None:
        return None if pd.isna(row[name]) else float(row[name])

    place = Path(planned.dir)
    return ListedRun(
        planned=planned,
        state=row["status"],
        reason=row["reason"],
        trained_by=None if planned.dir.startswith(f"{sweep}/") else place.parent.name,
        flops_planned=number("flops_planned"),
        loss=number("loss"),
        bpb=number("bpb"),
        tokens_per_s=number("tokens_per_s"),
        log=LogState.of(RunDir(root / planned.dir)),
    )


def list_stages(root: Path, name: str) -> ListedPosttraining:
    """Return every stage of a post-training.

    Raises:
        TrackError: There is no such post-training, or its manifest cannot be read.
    """
    manifest = StageManifest.load(root, name)
    return ListedPosttraining(manifest, [_listed_stage(root, planned) for planned in manifest.stages])


def _listed_stage(root: Path, planned: PlannedStage) -> ListedStage:
    run_dir = RunDir(root / planned.dir)
    try:
        result = stage_result(run_dir.path)
        state, reason = state_of(run_dir, result)
    except RunError as error:
        return ListedStage(planned, UNREADABLE, error.problem, None, LogState())
    return ListedStage(planned, state, reason, result, LogState.of(run_dir))
