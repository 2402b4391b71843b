"""The rows of a table that a law may be fitted to, and why the others not.

    evidence(table, count) -> Evidence

The table is ours (table.py) or a stranger's (tablefile.py). Besides what table.py has, a
stranger's `status` may be intermediate (read before the cooldown) or simulated.

Nothing of our own runs is imported here: a stranger's table has to be answered at once.

Not here: what the numbers themselves give away, such as duplicates and spent FLOPs beside the
plan (laws/quality.py).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd

from scalelab.errors import DataError
from scalelab.registry import did_you_mean
from scalelab.units import PARAM_COUNTS

NEEDED = ("n_params", "n_tokens", "loss")
MAY_LACK = ("flops_planned", "n_steps", "batch_tokens")
"""Numbers that single runs may be without: a run outside any slice has no budget."""
NUMBERS = (*NEEDED, "flops", "n_tokens_unique", "weight", *MAY_LACK)
PARAM_COLUMNS = tuple(f"n_params_{count}" for count in PARAM_COUNTS)
ONE_TEXT = ("tokenizer", "data_digest")
"""Columns in which the runs of one law agree: losses on other tokens are other quantities."""
KNOWN = (
    *NUMBERS, *PARAM_COLUMNS, *ONE_TEXT,
    "run", "seed", "group", "param_count", "status", "reason", "simulated",
)  # fmt: skip
"""Columns of a stranger's table that mean something to us."""
USED = ("finished", "simulated")
LEFT_OUT = {
    **dict.fromkeys(("planned", "running", "interrupted", "diverged", "failed"), ""),
    **dict.fromkeys(("intermediate", "un-annealed"), "its loss was read before the cooldown"),
}
"""Statuses of rows that are no evidence, and why where the word alone does not say it."""


class Evidence(NamedTuple):
    """What of a table a law may be fitted to."""

    table: pd.DataFrame
    """The rows, with N in `n_params` and every number checked."""
    excluded: list[dict[str, str]]
    """The other rows: {"run": id, "reason": why}."""
    param_count: str
    """Which count N is."""
    kind: str
    """measured or simulated."""


def evidence(
    table: pd.DataFrame, param_count: str | None = None, where: str = "the run table"
) -> Evidence:
    """The rows that finished, their numbers checked, and what was left out and why.

    Args:
        table: A run table, or a stranger's as read_table gives it.
        param_count: Which count to take for N; None: the table's own word for it, or total.
        where: What messages call the table.

    Raises:
        DataError: No run has finished; the runs saw different text, count N in different ways,
            or are partly simulated: then they are not points of one law; or a number is none.
    """
    table = table.assign(run=_names(table))
    excluded: list[dict[str, str]] = []

    def leave_out(bad: pd.Series, reasons: pd.Series) -> None:
        nonlocal table
        pairs = zip(table["run"][bad], reasons[bad], strict=True)
        excluded.extend({"run": run, "reason": reason} for run, reason in pairs)
        table = table[~bad]

    if "status" in table:
        leave_out(*_unfinished(table, where))
    same = [name for name in ("run", "n_tokens", "loss") if name in table]
    again = table.duplicated(same)
    leave_out(again, pd.Series("the same run stands in the table already", again.index))
    if table.empty:
        raise DataError(
            "no run has finished yet, so there is nothing to fit",
            where=f"{where}: {len(excluded)} runs, none finished",
            fix="finish the sweep: run `scalelab sweep` on its file again",
        )
    _refuse_mixtures(table, where)
    count, column = _count(table, param_count, where)
    table = table.assign(n_params=table[column])
    for name in NUMBERS:
        if name in table:
            table = table.assign(**{name: _positive(table[name], name, where)})
    if "n_tokens_unique" in table:
        _refuse_more_than_seen(table, where)
    if "group" in table:
        table = table.assign(group=table["group"].astype(object).fillna(table["run"]).astype(str))
    if "seed" in table and not pd.api.types.is_numeric_dtype(table["seed"]):
        table = table.assign(seed=table["seed"].astype(str))
    kind = "simulated" if _simulated(table, where).all() else "measured"
    return Evidence(table.reset_index(drop=True), excluded, count, kind)


def _names(table: pd.DataFrame) -> pd.Series:
    """Run ids; rows without one are named by their line in a spreadsheet: the header is 1."""
    lines = pd.Series([f"row {i + 2}" for i in table.index], table.index)
    return table["run"].where(table["run"].notna(), lines).astype(str) if "run" in table else lines


def _unfinished(table: pd.DataFrame, where: str) -> tuple[pd.Series, pd.Series]:
    """Which rows did not finish, and each row's reason."""
    status = table["status"].astype(str).str.strip().str.lower()
    strange = ~status.isin([*USED, *LEFT_OUT])
    if strange.any():
        word = status[strange].iloc[0]
        raise DataError(
            f"{int(strange.sum())} rows have a status that means nothing to us: {word[:40]!r}"
            + did_you_mean(word, [*USED, *LEFT_OUT]),
            where=f"{where}, rows {_lines(table[strange], 'status')}",
            fix=f"use {', '.join([*USED, *LEFT_OUT])}; or take the column away",
        )
    reason = table["reason"] if "reason" in table else pd.Series(None, table.index, dtype=object)
    reason = reason.where(reason.notna(), status.map(LEFT_OUT)).fillna("").astype(str)
    return ~status.isin(USED), status.where(reason == "", status + ": " + reason)


def _refuse_mixtures(table: pd.DataFrame, where: str) -> None:
    """Runs on different text, and runs some of which were never trained, are not one family."""
    for column in ONE_TEXT:
        if column not in table:
            continue
        kinds = table[column].value_counts()
        if len(kinds) > 1:
            raise DataError(
                f"the runs have {len(kinds)} different values of {column}",
                where=f"{where}: {_counted(kinds)}",
                fix="train all of them on one machine's text, or fit each group by itself",
            )
    simulated = _simulated(table, where)
    if simulated.any() and not simulated.all():
        raise DataError(
            f"{int(simulated.sum())} of {len(table)} runs are simulated, the others measured",
            where=f"{where}, the columns status and simulated",
            fix="fit each kind by itself: together they are evidence of nothing",
        )


def _simulated(table: pd.DataFrame, where: str) -> pd.Series:
    """Which rows say of themselves that they were drawn from a known law."""
    said = pd.Series(False, table.index)
    if "status" in table:
        said |= table["status"].astype(str).str.strip().str.lower() == "simulated"
    if "simulated" in table:
        words = table["simulated"].astype(str).str.strip().str.lower()
        yes, no = words.isin(["true", "yes", "1", "1.0"]), words.isin(["false", "no", "0", "0.0"])
        if not (yes | no).all():
            raise DataError(
                "the column simulated must say true or false in every row",
                where=f"{where}, rows {_lines(table[~(yes | no)], 'simulated')}",
                fix="write true or false, or take the column away",
            )
        said |= yes
    return said


def _count(table: pd.DataFrame, asked: str | None, where: str) -> tuple[str, str]:
    """Which count N is, and the column that holds it."""
    kinds = table["param_count"].value_counts() if "param_count" in table else {}
    if len(kinds) > 1:
        raise DataError(
            f"the runs count their parameters in {len(kinds)} ways",
            where=f"{where}, the column param_count: {_counted(kinds)}",
            fix="fit each group by itself, or give every run's n_params in one count",
        )
    said = str(kinds.index[0]) if len(kinds) else None
    if said is not None and (said not in PARAM_COUNTS or asked not in (None, said)):
        raise DataError(
            f"the table's param_count is {said!r}" + (f", not {asked!r}" if asked else ""),
            where=f"{where}, the column param_count",
            fix=f"name that count, one of: {', '.join(PARAM_COUNTS)}",
        )
    count = asked or said or "total"
    column = f"n_params_{count}"
    if "n_params" in table and (asked is None or column not in table):
        column = "n_params"
    if column not in table:
        there = [name for name in PARAM_COLUMNS if name in table]
        raise DataError(
            f"the table has no column {column}",
            where=f"{where}, which has {', '.join(there)}",
            fix=f"choose a count that is there: --param-count {there[0][len('n_params_') :]}",
        )
    return count, column


def _positive(column: pd.Series, name: str, where: str) -> pd.Series:
    """The column as positive floats."""
    truth = pd.api.types.is_bool_dtype(column)
    numbers = pd.to_numeric(column.astype(str) if truth else column, errors="coerce")
    bad = ~(numbers > 0) | (numbers == float("inf"))
    if name in MAY_LACK:
        bad &= column.notna()
    if bad.any():
        raise DataError(
            f"{name} must be a positive number in every row",
            where=f"{where}, rows {_lines(column[bad].to_frame(name), name)}",
            fix="mend these rows, or give them a status that says why they are no evidence",
        )
    return numbers.astype(float)


def _refuse_more_than_seen(table: pd.DataFrame, where: str) -> None:
    bad = table["n_tokens_unique"] > table["n_tokens"] * (1 + 1e-9)
    if bad.any():
        raise DataError(
            "n_tokens_unique is larger than n_tokens: more unique tokens than were seen",
            where=f"{where}, rows {_lines(table[bad], 'n_tokens_unique')}",
            fix="give the unique tokens among those that the run was trained on",
        )


def _lines(bad: pd.DataFrame, column: str) -> str:
    """Rows as a spreadsheet numbers them (the header is 1), with what stands there."""
    rows = [f"{i + 2} ({str(value)[:40]})" for i, value in bad[column].head(5).items()]
    return ", ".join(rows) + (f" and {len(bad) - 5} more" if len(bad) > 5 else "")


def _counted(kinds: Mapping[Any, int]) -> str:
    return "; ".join(f"{value}: {count} runs" for value, count in kinds.items())
