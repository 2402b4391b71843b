"""Rows of a table that were read before the end of their run, and runs that share a name.

    partial_runs(table) -> PartialRuns     rows to leave out, with reasons; a name for each run

A run is left out where its steps are below those planned. Where one name stands at several numbers of
tokens and nothing else differs (size, seed, recipe), the rows are checkpoints of one run or they are
not: a steps column, or names such as run-3/step-1000, say that they are, and the last one is kept.
Without such a sign the answer is asked for.

Not here: states of trackers (run_states.py).
"""

import re
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from scalelab.errors import DataError
from scalelab.records.cells import numbers
from scalelab.records.column_names import RECIPE

SHORT = 0.99
"""Share of the planned steps below which a run was not over; the last step is off by one in many logs."""
_CHECKPOINT = re.compile(
    r"(.+?)(?:[\s/_.:@-]+(?:ckpt|checkpoint)|[/@:](?:steps?|iters?|iterations?))[\s/_=:-]*\d+", re.I
)
"""Names of checkpoints: run-3/step-1000, run-3-ckpt-2."""
_STEP = re.compile(r"(.+?)[\s_.-]+(?:step|iter)[\s_=-]*\d+", re.I)
"""Names that may be: pythia-70m-step1000 is a checkpoint, and d512-step-1000 may be a run of 1000 steps."""
_COLUMNS = ("checkpoint", "ckpt", "checkpoint_step", "checkpoint_steps", "is_checkpoint")


@dataclass(frozen=True, eq=False)
class PartialRuns:
    """What the rows of a table say about the ends of their runs."""

    reasons: pd.Series
    """Why a row is left out; empty text where it stays."""
    names: pd.Series
    """Run ids, each once among the rows that stay."""
    notes: tuple[str, ...] = field(default=())


def partial_runs(table: pd.DataFrame, where: str) -> PartialRuns:
    """Return the rows that were read before the end of their run, and a name for each run.

    Args:
        table: Rows that finished as far as their status says; column `run` has their names.
        where: Name of the table in messages.

    Raises:
        DataError: One name stands at several numbers of tokens, and nothing says why.
    """
    reasons = _short_of_plan(table)
    names = table["run"].astype(str)
    if "n_tokens" not in table:
        return PartialRuns(reasons, names)
    base = names.map(_base)
    has_column = any(name in table for name in _COLUMNS)
    named_so = [has_column or _CHECKPOINT.fullmatch(name) is not None for name in names]
    is_named_so = pd.Series(named_so, table.index, dtype=bool)
    stays = reasons.eq("")
    tokens = numbers(table["n_tokens"])
    shared = stays & base.duplicated(keep=False) & tokens.notna()
    renamed = 0
    names = names.copy()
    for name, rows in base[shared].groupby(base[shared]).groups.items():
        part = table.loc[rows]
        at = tokens.loc[rows]
        if at.nunique() == 1 or _differ(part):
            renamed += _tell_apart(names, rows)
            continue
        if not (is_named_so.loc[rows].any() or _steps_grow(part, at)):
            raise DataError(
                f"the run {str(name)[:40]!r} stands at {at.nunique()} numbers of tokens",
                where=f"{where}, rows {', '.join(str(i + 2) for i in rows[:5])}",
                fix="add a column status that says intermediate for checkpoints and finished for ends of runs; "
                "or, if every row is a run of its own: --columns run=none",
            )
        last = at.idxmax()
        for row in rows:
            if at[row] < at[last]:
                reasons[row] = f"a checkpoint of {name} before its end (row {last + 2} has more tokens)"
    notes = (f"{renamed} rows share a name with others; they are named NAME (row)",) if renamed else ()
    return PartialRuns(reasons, names, notes)


def _base(name: str) -> str:
    hit = _CHECKPOINT.fullmatch(name) or _STEP.fullmatch(name)
    return hit[1] if hit else name


def _short_of_plan(table: pd.DataFrame) -> pd.Series:
    reasons = pd.Series("", table.index, dtype=object)
    if not {"n_steps", "n_steps_planned"} <= set(table):
        return reasons
    done, planned = numbers(table["n_steps"]), numbers(table["n_steps_planned"])
    short = (planned > 0) & (done < SHORT * planned)
    for row in table.index[short]:
        reasons[row] = f"stopped at step {done[row]:.10g} of {planned[row]:.10g}"
    return reasons


def _differ(part: pd.DataFrame) -> bool:
    """Return whether rows of one name differ in size, seed or recipe, so that they are not one run."""
    sizes = [name for name in part if name.startswith("n_params")]
    return any(part[name].astype(str).nunique() > 1 for name in (*sizes, *RECIPE) if name in part)


def _steps_grow(part: pd.DataFrame, tokens: pd.Series) -> bool:
    if "n_steps" not in part:
        return False
    order = tokens.sort_values().index
    steps = numbers(part["n_steps"])[order]
    return bool(steps.notna().all() and np.all(np.diff(steps) > 0))


def _tell_apart(names: pd.Series, rows: pd.Index) -> int:
    """Name rows by their line where their name stands more than once. Returns how many."""
    twice = [row for row in rows if (names.loc[rows] == names[row]).sum() > 1]
    for row in twice:
        names[row] = f"{names[row]} (row {row + 2})"
    return len(twice)
