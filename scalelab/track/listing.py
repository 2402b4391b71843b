"""What exists, for eyes: `scalelab runs`."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from scalelab.errors import RunError, ScalelabError
from scalelab.track.kinds import SWEEP, kinds_of
from scalelab.track.manifest import PlannedRun, SweepManifest, list_sweeps
from scalelab.track.stages import (
    PlannedStage,
    StageManifest,
    StageResult,
    list_posttrainings,
    stage_result,
)
from scalelab.track.state import STATES, state_of
from scalelab.track.table import UNREADABLE, shown_table
from scalelab.train.rundir import RunDir, read_events
from scalelab.units import sci, si


def listing(root: Path, name: str | None) -> str:
    """All sweeps and post-trainings in a line each; with a name, its every run or stage.

    What cannot be read is shown as unreadable, with the reason, and the others are listed.

    Raises:
        TrackError: There is neither a sweep nor a post-training of that name, or the manifest of
            the one that was named cannot be read.
    """
    if name is not None:
        parts = [
            _one(root, name) if k == SWEEP else _stages(root, name) for k in kinds_of(root, name)
        ]
        return "\n\n".join(parts)
    sweeps, posttrainings = list_sweeps(root), list_posttrainings(root)
    if not sweeps and not posttrainings:
        return f"no sweeps in {root}; begin with: scalelab sweep sweeps/isoflop.yaml"
    lines = []
    if sweeps:
        lines.append(f"{'sweep':<24} {'runs':>5}  state")
        for sweep in sweeps:
            try:
                states = list(shown_table(root, sweep)["status"])
            except ScalelabError as error:
                lines.append(_unreadable(sweep, 5, error))
                continue
            lines.append(f"{sweep:<24} {len(states):>5}  {_counts(states)}")
        lines.append("")
    if posttrainings:
        lines.append(f"{'post-training':<24} {'stages':>6}  state")
        for posttraining in posttrainings:
            try:
                states = [stage.state for stage in _standing(root, posttraining)]
            except ScalelabError as error:
                lines.append(_unreadable(posttraining, 6, error))
                continue
            lines.append(f"{posttraining:<24} {len(states):>6}  {_counts(states)}")
        lines.append("")
    each = " or ".join(["run"] * bool(sweeps) + ["stage"] * bool(posttrainings))
    return "\n".join([*lines, f"every {each} of one: scalelab runs NAME"])


def _unreadable(name: str, wide: int, error: ScalelabError) -> str:
    return f"{name:<24} {'?':>{wide}}  {UNREADABLE}: {error.problem}"


def _one(root: Path, sweep: str) -> str:
    manifest, table = SweepManifest.load(root, sweep), shown_table(root, sweep)
    lines = [f"{sweep}: {manifest.question.strip()}", _counts(table["status"]), ""]
    lines.append(
        f"{'run':<12} {'state':<11} {'budget':>8} {'N':>7} {'D':>7} {'seed':>4} {'loss':>8} "
        f"{'bits/byte':>9} {'tokens/s':>8}  note"
    )
    for planned, (_, row) in zip(manifest.runs, table.iterrows(), strict=True):
        loss = "" if pd.isna(row["loss"]) else f"{row['loss']:.4f}"
        bpb = "" if pd.isna(row["bpb"]) else f"{row['bpb']:.4f}"
        pace = "" if pd.isna(row["tokens_per_s"]) else si(row["tokens_per_s"])
        budget = "" if pd.isna(row["flops_planned"]) else sci(row["flops_planned"])
        lines.append(
            f"{planned.run:<12} {row['status']:<11} {budget:>8} {si(planned.n_params):>7} "
            f"{si(planned.n_tokens):>7} {planned.seed:>4} {loss:>8} {bpb:>9} {pace:>8}  "
            f"{_note(root, sweep, planned, row)}".rstrip()
        )
    lines += ["", f"N counts {manifest.param_count} parameters; loss in nats per token, measured"]
    return "\n".join(lines)


def _note(root: Path, sweep: str, planned: PlannedRun, row: pd.Series) -> str:
    notes, log = [], _Log.of(RunDir(root / planned.dir))
    if row["reason"]:
        notes.append(str(row["reason"]).splitlines()[0])
    elif not planned.dir.startswith(f"{sweep}/"):
        notes.append(f"trained by the sweep {Path(planned.dir).parent.name}")
    elif row["status"] in {"running", "interrupted"}:
        notes.append(f"step {log.step or 0} of {planned.n_steps}")
    return "; ".join(dict.fromkeys([*notes, *log.remarks]))


class _Log(NamedTuple):
    """What a listing says of a log."""

    step: int | None
    """The last one; None without one."""
    remarks: list[str]
    """That lines were skipped, or that the log cannot be read."""

    @classmethod
    def of(cls, run_dir: RunDir) -> "_Log":
        try:
            events, _, n_bad = read_events(run_dir.log_path)
        except RunError as error:
            return cls(None, [error.problem])
        steps = [event["step"] for event in events if event["event"] == "step"]
        skipped = f"skipped {n_bad} damaged line{'' if n_bad == 1 else 's'} of its log"
        return cls(steps[-1] if steps else None, [skipped] if n_bad else [])


class _Standing(NamedTuple):
    """How one stage stands."""

    planned: PlannedStage
    state: str
    end: StageResult | None
    note: str
    """What is to be said beside the numbers."""


def _standing(root: Path, name: str) -> list[_Standing]:
    """Every stage of a post-training. A result that cannot be read is a state of its own."""
    rows = []
    for planned in StageManifest.load(root, name).stages:
        run_dir = RunDir(root / planned.dir)
        try:
            end = stage_result(run_dir.path)
            state, reason = state_of(run_dir, end)
        except RunError as error:
            rows.append(_Standing(planned, UNREADABLE, None, error.problem))
            continue
        log = _Log.of(run_dir)
        note = reason.splitlines()[0] if reason else "" if end is None else end.main_metrics
        if end is None and not reason and state != "planned" and log.step is not None:
            note = f"step {log.step}"
        rows.append(_Standing(planned, state, end, "; ".join(filter(None, [note, *log.remarks]))))
    return rows


def _stages(root: Path, name: str) -> str:
    manifest, rows = StageManifest.load(root, name), _standing(root, name)
    base = ", ".join(f"{key} {value}" for key, value in manifest.base.items())
    question = manifest.question.strip()
    lines = [f"{name}: {question}" if question else name, f"base model: {base}"]
    lines += [_counts([row.state for row in rows]), ""]
    wide = max([5, *(len(row.planned.stage) for row in rows)])
    kinds = max([4, *(len(row.planned.kind) for row in rows)])
    noted = min(60, max([7, *(len(row.note) for row in rows)]))
    lines.append(
        f"{'stage':<{wide}} {'kind':<{kinds}} {'state':<11} {'tokens':>7} {'FLOPs':>8} "
        f"{'seconds':>9}  {'metrics':<{noted}}  dir"
    )
    for planned, state, end, note in rows:
        tokens, flops, seconds = ("", "", "") if end is None else _totals(end)
        lines.append(
            f"{planned.stage:<{wide}} {planned.kind:<{kinds}} {state:<11} {tokens:>7} {flops:>8} "
            f"{seconds:>9}  {note:<{noted}}  {planned.dir}"
        )
    return "\n".join(lines)


def _totals(end: StageResult) -> tuple[str, str, str]:
    """Tokens, FLOPs and seconds of a stage, for eyes; what is unknown is blank."""
    return (
        "" if end.n_tokens is None else si(end.n_tokens),
        "" if end.flops is None else sci(end.flops),
        "" if end.seconds is None else f"{end.seconds:.1f}",
    )


def _counts(states: Iterable[str]) -> str:
    counts = Counter(states)
    there = [state for state in (*STATES, UNREADABLE) if counts[state]]
    return ", ".join(f"{counts[state]} {state}" for state in there)
