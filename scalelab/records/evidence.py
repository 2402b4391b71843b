"""The rows of a table that a law may be fitted to, and why the others not.

    evidence(table, count) -> Evidence

The table is ours (run_table.py) or external (external_table.py). The `status` of an external table is
that of a tracker (run_states.py), intermediate (read before the cooldown) or simulated. Rows that are no
evidence are left out before their numbers are looked at: those of a crashed run may be anything.

Nothing of our own runs is imported here: an external table has to be read without importing torch or MLflow.

Not here: names and formats (external_table.py), rows before the end of their run (partial_runs.py), and
what the numbers themselves give away, such as duplicates and spent FLOPs beside the plan (study/).
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import pandas as pd

from scalelab.errors import DataError
from scalelab.records.cells import numbers
from scalelab.records.column_names import NEEDED, RECIPE
from scalelab.records.partial_runs import partial_runs
from scalelab.records.run_states import BLANK, BLANK_REASON, LEFT_OUT, NAMED, USED, states
from scalelab.records.run_states import KNOWN as KNOWN_STATES
from scalelab.records.table_reading import TableReading
from scalelab.records.table_units import TableUnits
from scalelab.registry import did_you_mean
from scalelab.units import PARAM_COUNTS

MAY_LACK = ("flops_planned", "n_steps", "batch_tokens")
"""Numbers that single runs may be without: a run outside any slice has no budget."""
NUMBERS = (*NEEDED, "flops", "n_tokens_unique", "weight", *MAY_LACK)
PARAM_COLUMNS = tuple(f"n_params_{count}" for count in PARAM_COUNTS)
NEAR_6ND = 100.0
"""Times that a column found by its name may be off 6 N D and still be a budget in FLOPs: small models with
a large head and long context spend up to ten times it, and another unit is off by a thousand."""
ONE_TEXT = ("tokenizer", "data_digest", "data")
"""Columns in which the runs of one law agree: losses on other tokens are other quantities."""
KNOWN = (
    *NUMBERS,
    *PARAM_COLUMNS,
    *ONE_TEXT,
    "run",
    "seed",
    "group",
    "param_count",
    "status",
    "reason",
    "simulated",
    "n_steps_planned",
    "trunk",
    "validates",
)
"""Columns of an external table that are used."""

TOTALS = ("mean", "average", "avg", "median", "total", "totals", "sum", "std", "sd", "count", "min", "max")
"""Names of rows below the runs of a spreadsheet."""


class Evidence(NamedTuple):
    """The rows of a table that a law may be fitted to."""

    table: pd.DataFrame
    """The rows, with N in `n_params` and every number checked."""
    excluded: list[dict[str, str]]
    """The other rows: {"run": id, "reason": why}."""
    param_count: str
    """Which count N is."""
    kind: str
    """measured or simulated."""
    reading: TableReading | None = None
    """How the table was read; None for the runs of a sweep."""
    where: str = "the run table"
    """Name of the table in messages."""
    units: TableUnits | None = None
    """Units that the reader of an external table stated; None for runs whose units are known, our own."""


def evidence(
    table: pd.DataFrame,
    param_count: str | None = None,
    where: str = "the run table",
    reading: TableReading | None = None,
) -> Evidence:
    """The rows that finished, their numbers checked, and what was left out and why.

    Args:
        table: A run table, or an external table as read_table returns it.
        param_count: Which count to take for N; None: the table's own word for it, or total.
        where: What messages call the table.
        reading: How the table was read; its remarks are added to. None for the runs of a sweep.

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

    notes: list[str] = []
    if reading is not None:
        totals = table["run"].str.strip().str.lower().isin(TOTALS)
        leave_out(totals, pd.Series("a row of totals or means, not a run", totals.index))
    if "status" in table:
        known = states(table["status"])
        if (known == BLANK).all():
            notes.append("every status cell is blank, so the column is not used")
            table = table.drop(columns="status")
        else:
            leave_out(*_unfinished(table.assign(status=known), where))
    if "validates" in table:
        validates = table["validates"].astype(object).fillna("").astype(str)
        leave_out(validates != "", "a separate run that validates the branch " + validates)
    again = _written_twice(table)
    leave_out(again, pd.Series("the same run stands in the table already", again.index))
    if reading is not None:
        partial = partial_runs(table, where)
        leave_out(partial.reasons != "", partial.reasons)
        table = table.assign(run=partial.names[table.index])
        notes += partial.notes
    if table.empty and reading is not None:
        reasons = Counter(item["reason"] for item in excluded).most_common(3)
        raise DataError(
            f"no row of the table is a finished run, so there is nothing to fit; left out: {excluded[0]['run']} "
            f"({excluded[0]['reason']})",
            where=f"{where}: " + "; ".join(f"{count} rows: {reason[:80]}" for reason, count in reasons),
            fix="add the rows of finished runs; or, if a column says so wrongly, leave it out: "
            "--columns status=none,n_steps_planned=none",
        )
    if table.empty:
        raise DataError(
            "no run has finished yet, so there is nothing to fit",
            where=f"{where}: {len(excluded)} runs, none finished",
            fix="finish the sweep: run `scalelab sweep` on its file again",
        )
    _refuse_mixtures(table, where)
    count, column = _count(table, param_count, where)
    table = table.assign(n_params=table[column])
    guessed = set() if reading is None else set(reading.matched) - set(NEEDED)
    for name in NUMBERS:
        if name not in table:
            continue
        if name not in NEEDED and table[name].isna().all():
            table = table.drop(columns=name)
            notes.append(f"every cell of {name} is blank, so the column is not used")
            continue
        try:
            table = table.assign(**{name: _positive(table[name], name, where)})
        except DataError as error:
            if name not in guessed or reading is None:
                raise
            table = table.drop(columns=name)
            notes.append(f"{reading.columns[name]!r} may be {name} and was not used: {error.problem}")
    if "flops_planned" in guessed and "flops_planned" in table and reading is not None:
        ratio = float((table["flops_planned"] / (6 * table["n_params"] * table["n_tokens"])).median())
        if not 1 / NEAR_6ND < ratio < NEAR_6ND:
            table = table.drop(columns="flops_planned")
            notes.append(
                f"{reading.columns['flops_planned']!r} was not used as the budget in FLOPs: its numbers are "
                f"{ratio:.3g} times 6 N D"
            )
    if "n_tokens_unique" in table:
        _refuse_more_than_seen(table, where)
    if "trunk" in table:
        trunk = table["trunk"].astype(object)
        trunk = trunk.mask(trunk.isna() | (trunk.astype(str).str.strip() == ""))
        named = (
            table["group"].astype(object) if "group" in table else pd.Series(None, table.index, dtype=object)
        )
        table = table.assign(group=named.mask(named.astype(str).str.strip() == "").fillna(trunk))
    if "group" in table:
        table = table.assign(group=table["group"].astype(object).fillna(table["run"]).astype(str))
    if "seed" in table and not pd.api.types.is_numeric_dtype(table["seed"]):
        table = table.assign(seed=table["seed"].astype(str))
    kind = "simulated" if _simulated(table, where).all() else "measured"
    if reading is not None:
        reading = replace(reading, notes=(*reading.notes, *notes))
    return Evidence(table.reset_index(drop=True), excluded, count, kind, reading)


def _names(table: pd.DataFrame) -> pd.Series:
    """Run ids; rows without one are named by their line in a spreadsheet: the header is 1."""
    lines = pd.Series([f"row {i + 2}" for i in table.index], table.index)
    return table["run"].where(table["run"].notna(), lines).astype(str) if "run" in table else lines


def _written_twice(table: pd.DataFrame) -> pd.Series:
    """Which rows repeat an earlier one in name, size, tokens, recipe and loss."""
    again = table["run"].duplicated(keep=False)
    columns = [
        name for name in table if name in ("run", "n_tokens", "loss", *PARAM_COLUMNS, *RECIPE, "n_params")
    ]
    again[again] = table.loc[again, columns].astype(str).duplicated()
    return again


def _unfinished(table: pd.DataFrame, where: str) -> tuple[pd.Series, pd.Series]:
    """Which rows did not finish, and each row's reason; the states are those of run_states.states."""
    status = table["status"]
    strange = ~status.isin([*KNOWN_STATES, BLANK])
    if strange.any():
        word = status[strange].iloc[0]
        raise DataError(
            f"{int(strange.sum())} rows have a status that means nothing to us: {word[:40]!r}"
            + did_you_mean(word, [*USED, *LEFT_OUT]),
            where=f"{where}, rows {_lines(table[strange], 'status')}",
            fix=f"use {', '.join(NAMED)} or the states of a tracker; or leave the column out: "
            "--columns status=none",
        )
    blank = status == BLANK
    if blank.any() and not status.isin(USED).any():
        raise DataError(
            f"no row says that its run finished, and {int(blank.sum())} rows have a blank status",
            where=f"{where}, rows {_lines(table[blank], 'status')}",
            fix="write finished in the rows of runs that did; or leave the column out: --columns status=none",
        )
    reason = table["reason"] if "reason" in table else pd.Series(None, table.index, dtype=object)
    reason = reason.astype(object).where(reason.notna(), status.map(LEFT_OUT)).fillna("").astype(str)
    words = status.where(reason == "", status + ": " + reason).mask(blank, BLANK_REASON)
    return ~status.isin(USED), words


def _refuse_mixtures(table: pd.DataFrame, where: str) -> None:
    """Runs on different text, with other products or some of them never trained are not one family."""
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
    if "precision" in table:
        in_fp8 = table["precision"].dropna().astype(str).str.contains("+fp8", regex=False)
        if in_fp8.any() and not in_fp8.all():
            raise DataError(
                f"{int(in_fp8.sum())} of {len(in_fp8)} runs multiplied matrices in fp8, which changes their losses "
                "by more than rounding",
                where=f"{where}, the column precision: {_counted(table['precision'].value_counts())}",
                fix="fit each kind separately",
            )
    if "trunk" in table:
        _refuse_other_schedules(table, where)
    simulated = _simulated(table, where)
    if simulated.any() and not simulated.all():
        raise DataError(
            f"{int(simulated.sum())} of {len(table)} runs are simulated, the others measured",
            where=f"{where}, the columns status and simulated",
            fix="fit each kind separately",
        )


def _refuse_other_schedules(table: pd.DataFrame, where: str) -> None:
    """Losses of branches and of separate runs, or at the end of other cooldowns, differ by what drifts with tokens."""
    branches = table["trunk"].astype(object).fillna("").astype(str) != ""
    if branches.any() and not branches.all():
        raise DataError(
            f"{int(branches.sum())} of {len(table)} runs are branches of trunks, the others were trained separately: "
            "the difference of their losses changes with their tokens, and a law would take it for a slope",
            where=f"{where}, the column trunk",
            fix="fit each kind separately",
        )
    kinds = table["schedule"].dropna().value_counts() if "schedule" in table else {}
    if len(kinds) > 1:
        raise DataError(
            f"the runs have {len(kinds)} different schedules, and the difference of their losses changes with their "
            "tokens: a law would take it for a slope",
            where=f"{where}, the column schedule: {_counted(kinds)}",
            fix="fit the runs of each schedule separately",
        )


def _simulated(table: pd.DataFrame, where: str) -> pd.Series:
    """Rows that are marked as simulated."""
    simulated = pd.Series(False, table.index)
    if "status" in table:
        simulated |= table["status"].astype(str).str.strip().str.lower() == "simulated"
    if "simulated" in table:
        words = table["simulated"].astype(str).str.strip().str.lower()
        yes, no = words.isin(["true", "yes", "1", "1.0"]), words.isin(["false", "no", "0", "0.0"])
        if not (yes | no).all():
            raise DataError(
                "the column simulated must say true or false in every row",
                where=f"{where}, rows {_lines(table[~(yes | no)], 'simulated')}",
                fix="write true or false, or remove the column",
            )
        simulated |= yes
    return simulated


def _count(table: pd.DataFrame, asked: str | None, where: str) -> tuple[str, str]:
    """Which count N is, and the column that holds it."""
    kinds = table["param_count"].value_counts() if "param_count" in table else {}
    if len(kinds) > 1:
        raise DataError(
            f"the runs count their parameters in {len(kinds)} ways",
            where=f"{where}, the column param_count: {_counted(kinds)}",
            fix="fit each group separately, or give n_params of every run in the same count",
        )
    stated = str(kinds.index[0]) if len(kinds) else None
    if stated is not None and (stated not in PARAM_COUNTS or asked not in (None, stated)):
        raise DataError(
            f"the table's param_count is {stated!r}" + (f", not {asked!r}" if asked else ""),
            where=f"{where}, the column param_count",
            fix=f"name that count, one of: {', '.join(PARAM_COUNTS)}",
        )
    there = [each for each in PARAM_COUNTS if f"n_params_{each}" in table]
    only = there[0] if len(there) == 1 and "n_params" not in table else None
    count = asked or stated or only or "total"
    column = f"n_params_{count}"
    if "n_params" in table and (asked is None or column not in table):
        column = "n_params"
    if column not in table:
        raise DataError(
            f"the table has no column {column}",
            where=f"{where}, which has {', '.join(f'n_params_{each}' for each in there)}",
            fix=f"choose a count that is there: --param-count {there[0]}",
        )
    return count, column


def _positive(column: pd.Series, name: str, where: str) -> pd.Series:
    """The column as positive floats."""
    values = numbers(column)
    bad = ~(values > 0) | (values == float("inf"))
    if name in MAY_LACK:
        bad &= column.notna()
    if bad.any():
        raise DataError(
            f"{name} must be a positive number in every row",
            where=f"{where}, rows {_lines(column[bad].to_frame(name), name)}",
            fix="correct these rows, or give them a status that says why they are no evidence",
        )
    return values


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
