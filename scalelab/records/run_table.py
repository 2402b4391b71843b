"""The run table: one row per run of our own sweeps, fixed columns and units.

    run_table(root, sweep)   a sweep's manifest joined with its run directories

Columns are those of RunResult and PlannedRun (units.py has the symbols), and

    status   planned, running, interrupted, finished, diverged or failed
    reason   why a run that did not finish ended
    group    what the bootstrap draws as one: the branches of a trunk, and each other run by itself
    trunk    which runs share a trunk: equal for its branches, None for a run that shares nothing
    schedule how the rate comes down, in words; None where older manifests hold the numbers that a rule gave
    validates  the branch that a separate run is compared with; it is in no fit
    dir      its directory, relative to the root of all runs

Not here: which rows a law may be fitted to (evidence.py), files (external_table.py).
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from scalelab.errors import RunError
from scalelab.records.status import state_of
from scalelab.records.sweep_manifest import PlannedRun, SweepManifest, list_sweeps
from scalelab.train.run_directory import RunDir

PLANNED = ("run", "flops_planned", "n_params_planned", "n_tokens_planned", "seed", "dir")
RESULT = (
    "n_params_total",
    "n_params_non_embedding",
    "n_params_matmul",
    "n_params_active",
    "n_tokens",
    "n_tokens_unique",
    "flops",
    "flops_6nd",
    "flops_per_token",
    "loss",
    "loss_se",
    "bpb",
    "batch_tokens",
    "micro_batch_tokens",
    "seq_len",
    "n_steps",
    "tokens_per_s",
    "mfu",
    "train_s",
    "eval_s",
    "first_steps_s",
    "steady_tokens_per_s",
    "steady_mfu",
    "device",
    "precision",
    "threads",
    "n_resumes",
    "tokenizer",
    "data_digest",
)
TRAINED_BY = ("trunk", "schedule", "validates")
"""Fields of PlannedRun: how a run was trained, and what for."""
COLUMNS = ("sweep", *PLANNED[:1], "status", "reason", *PLANNED[1:], "group", *TRAINED_BY, *RESULT)
UNREADABLE = "unreadable"
"""Status of a run whose result or log cannot be read, in a table that is only shown."""
WORDS = (
    "sweep",
    "run",
    "status",
    "reason",
    "dir",
    "group",
    *TRAINED_BY,
    "device",
    "precision",
    "tokenizer",
    "data_digest",
)


def run_table(root: Path, sweep: str) -> pd.DataFrame:
    """One row per run that the sweep planned, in the order in which it planned them.

    Laws are fitted to it, so a run that cannot be read is an error here and never a missing row.

    Raises:
        TrackError: There is no such sweep.
        RunError: A run's result or log is there and cannot be read.
    """
    return _table(_rows(root, sweep))


def shown_table(root: Path, sweep: str) -> pd.DataFrame:
    """The run table to show and to count states: a run that cannot be read is UNREADABLE.

    Its `reason` is the problem, its numbers are NaN.

    Raises:
        TrackError: There is no such sweep.
    """
    return _table(_rows(root, sweep, unreadable_too=True))


def every_run(root: Path, sweep: str | None) -> pd.DataFrame:
    """The run tables of one sweep, or of all of them one below the other. Raises as run_table."""
    names = list_sweeps(root) if sweep is None else [sweep]
    return _table([row for name in names for row in _rows(root, name)])


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows as a table in which an unknown word is None and an unknown number NaN."""
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    for name in WORDS:
        words = table[name].astype(object)
        table = table.assign(**{name: words.where(words.notna(), None)})
    for name in set(COLUMNS) - set(WORDS):
        table = table.assign(**{name: pd.to_numeric(table[name])})
    return table


def _rows(root: Path, sweep: str, unreadable_too: bool = False) -> list[dict[str, Any]]:
    planned_runs = SweepManifest.load(root, sweep).runs
    if len({planned.schedule for planned in planned_runs}) > 1:  # of one recipe, so a rule gave what differs
        planned_runs = [replace(planned, schedule=None) for planned in planned_runs]
    return [_row(root, sweep, planned, unreadable_too) for planned in planned_runs]


def _row(root: Path, sweep: str, planned: PlannedRun, unreadable_too: bool) -> dict[str, Any]:
    run_dir = RunDir(root / planned.dir)
    try:
        result = run_dir.result()
        status, reason = state_of(run_dir, result)
    except RunError as error:
        if not unreadable_too:
            raise
        result, status, reason = None, UNREADABLE, error.problem
    row = {"sweep": sweep, "status": status, "reason": reason}
    row["group"] = planned.group or planned.run
    row |= {name: getattr(planned, name) for name in (*PLANNED, *TRAINED_BY)}
    return row | {name: getattr(result, name) if result else None for name in RESULT}
