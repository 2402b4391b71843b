"""The run table: one row per run, fixed columns and units, ours or a stranger's.

    run_table(root, sweep)   a sweep's manifest joined with its run directories
    read_table(path)         anybody's CSV or parquet, checked
    evidence(table, count)   the rows that a law may be fitted to, and why the others not

Columns are those of RunResult and PlannedRun (units.py has the symbols), and

    status   planned, running, interrupted, finished, diverged or failed
    reason   why a run that did not finish ended
    dir      its directory, relative to the root of all runs
"""

import csv
import fcntl
from pathlib import Path
from typing import Any

import pandas as pd

from scalelab.errors import DataError, TrackError
from scalelab.files import whole
from scalelab.registry import did_you_mean
from scalelab.track.manifest import PlannedRun, SweepManifest, list_sweeps
from scalelab.train.rundir import RunDir
from scalelab.train.spec import RunResult
from scalelab.units import PARAM_COUNTS

PLANNED = ("run", "flops_planned", "n_params_planned", "n_tokens_planned", "seed", "dir")
RESULT = (
    "n_params_total", "n_params_non_embedding", "n_params_matmul", "n_params_active",
    "n_tokens", "n_tokens_unique", "flops", "flops_6nd", "flops_per_token", "loss", "loss_se",
    "bpb", "batch_tokens", "micro_batch_tokens", "seq_len", "n_steps", "tokens_per_s", "mfu",
    "train_s", "eval_s", "device", "precision", "threads", "n_resumes", "tokenizer",
    "data_digest",
)  # fmt: skip
COLUMNS = ("sweep", *PLANNED[:1], "status", "reason", *PLANNED[1:], *RESULT)
WORDS = (
    "sweep", "run", "status", "reason", "dir", "device", "precision", "tokenizer", "data_digest",
)  # fmt: skip
NEEDED = ("n_params", "n_tokens", "loss")
NUMBERS = (*NEEDED, "flops", "flops_planned", "n_tokens_unique", "weight")
"""Columns of a stranger's table that must be positive numbers where they are there."""
KNOWN = (*NUMBERS, "run", "seed", "group")
"""Columns of a stranger's table that mean something to us."""
PARAM_COLUMNS = tuple(f"n_params_{count}" for count in PARAM_COUNTS)
KEEP_ONE = "keep one of the two"
INSTALL_PARQUET = "pip install 'scalelab[text]', or use .csv"
FLOPS_TOLERANCE = 0.05
"""Spent over planned FLOPs may differ by this share before a run is left out."""


def run_table(root: Path, sweep: str) -> pd.DataFrame:
    """One row per run that the sweep planned, in the order in which it planned them.

    Raises:
        TrackError: There is no such sweep.
        RunError: A run's result is there and cannot be read.
    """
    return _table(_rows(root, sweep))


def every_run(root: Path, sweep: str | None) -> pd.DataFrame:
    """The run tables of one sweep, or of all of them one below the other."""
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


def _rows(root: Path, sweep: str) -> list[dict[str, Any]]:
    return [_row(root, sweep, planned) for planned in SweepManifest.load(root, sweep).runs]


def _row(root: Path, sweep: str, planned: PlannedRun) -> dict[str, Any]:
    run_dir = RunDir(root / planned.dir)
    result = run_dir.result()
    status, reason = state_of(run_dir, result)
    row = {"sweep": sweep, "status": status, "reason": reason}
    row |= {name: getattr(planned, name) for name in PLANNED}
    return row | {name: getattr(result, name) if result else None for name in RESULT}


def state_of(run_dir: RunDir, result: RunResult | None) -> tuple[str, str | None]:
    """Where a run stands, from its directory alone, and the reason where there is one."""
    if result is not None:
        return result.status, result.reason
    if is_running(run_dir):
        return "running", None
    last = None
    for event in run_dir.events():
        if event["event"] in {"start", "interrupted", "lost", "end"}:
            last = event
    if last is None:
        return "planned", None
    if last["event"] == "lost":
        return "failed", last["reason"]
    return "interrupted", None


def is_running(run_dir: RunDir) -> bool:
    """Whether some process holds the run's lock at this moment."""
    try:
        with open(run_dir.lock_path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def evidence(table: pd.DataFrame, param_count: str) -> tuple[pd.DataFrame, list[dict[str, str]]]:
    """The finished runs of a sweep with N in `n_params`, and what was left out and why.

    Raises:
        DataError: No run has finished, or the runs saw different text: losses on different
            tokens are not points of one law.
    """
    excluded: list[dict[str, str]] = []

    def leave_out(bad: pd.Series, why: Any) -> None:
        nonlocal table
        excluded.extend({"run": row["run"], "reason": why(row)} for _, row in table[bad].iterrows())
        table = table[~bad]

    leave_out(
        table["status"] != "finished",
        lambda row: row["status"] + (f": {row['reason']}" if row["reason"] else ""),
    )
    leave_out(table["run"].duplicated(), lambda row: "the same run stands in the table already")
    if table.empty:
        raise DataError(
            "no run has finished yet, so there is nothing to fit",
            where=f"the run table: {len(excluded)} runs, none finished",
            fix="finish the sweep: run `scalelab sweep` on its file again",
        )
    for column in ("data_digest", "tokenizer"):
        kinds = table[column].value_counts()
        if len(kinds) > 1:
            raise DataError(
                f"the runs have {len(kinds)} different values of {column}",
                where="; ".join(f"{value}: {count} runs" for value, count in kinds.items()),
                fix="train all of them on one machine's text, or fit each group by itself",
            )
    planned = table["flops_planned"].astype(float)
    off = (table["flops"].astype(float) / planned - 1).abs() > FLOPS_TOLERANCE
    leave_out(
        off & planned.notna(),
        lambda row: f"spent {row['flops']:.3g} FLOPs, planned {row['flops_planned']:.3g}",
    )
    table = table.assign(n_params=table[f"n_params_{param_count}"].astype(float))
    for column in ("n_tokens", "loss", "flops", "flops_planned"):
        table = table.assign(**{column: table[column].astype(float)})
    return table.reset_index(drop=True), excluded


def read_table(path: Path, columns: dict[str, str] | None = None) -> pd.DataFrame:
    """A table from a CSV or parquet file with our column names, every number checked.

    Args:
        path: The file.
        columns: What the file calls our columns: {"n_params": "N"}.

    Raises:
        DataError: Naming the file and the rows that are not as they must be.
    """
    renames = {theirs: ours for ours, theirs in (columns or {}).items()}
    for ours in renames.values():
        if ours not in KNOWN:
            raise DataError(
                f"{ours!r} is not a column that we use{did_you_mean(ours, list(KNOWN))}",
                where=f"the new names for the columns of {path}",
                fix=f"name these: {', '.join(KNOWN)}",
            )
    raw = _load(path)
    there = f"{path}, whose columns are {', '.join(map(str, raw.columns))}"
    if missing := [name for name in renames if name not in raw]:
        raise DataError(
            f"the table has no column {', '.join(map(repr, missing))}",
            where=there,
            fix="name columns that are there: --columns n_params=N,n_tokens=D,loss=L",
        )
    table = raw.rename(columns=renames)
    if twice := sorted({name for name in table.columns if list(table.columns).count(name) > 1}):
        raise DataError(f"the column {twice[0]!r} stands twice", where=there, fix=KEEP_ONE)
    if missing := [name for name in NEEDED if name not in table]:
        counts = [name for name in PARAM_COLUMNS if name in table]
        known = {"n_params": counts[0]} if counts else {}
        raise DataError(
            f"the table has no column {', '.join(missing)}",
            where=there,
            fix="say what it calls them: --columns "
            + ",".join(f"{name}={known.get(name, 'NAME')}" for name in missing),
        )
    if table.empty:
        raise DataError("the table has no rows", where=str(path), fix="export it with its runs")
    for name in NUMBERS:
        if name in table:
            optional = name == "flops_planned"  # runs outside any slice have none
            table = table.assign(**{name: _positive(table[name], name, path, optional)})
    if "run" in table:
        table = table.assign(run=table["run"].astype(str))
    return table.reset_index(drop=True)


def _load(path: Path) -> pd.DataFrame:
    """The file as it stands; row i of a CSV is line i + 2 of the file."""
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        table = pd.read_csv(path, skip_blank_lines=False)
        _refuse_crooked(path, table)
        return table.dropna(how="all") if len(table.columns) > 1 else table
    except FileNotFoundError:
        problem = "there is no such file"
    except pd.errors.EmptyDataError:
        problem = "the file is empty"
    except UnicodeDecodeError:
        problem = "the file is not text"
    except (pd.errors.ParserError, OSError, ValueError) as error:
        problem = f"it cannot be read as a table: {str(error).splitlines()[0]}"
    except ImportError as error:
        raise DataError(
            "reading parquet needs pyarrow", where=str(path), fix=INSTALL_PARQUET
        ) from error
    raise DataError(
        problem, where=str(path), fix="name a CSV or parquet file with a header and a row per run"
    )


def _refuse_crooked(path: Path, table: pd.DataFrame) -> None:
    """Refuse what pandas reads without a word: shifted columns, names made different."""
    if not isinstance(table.index, pd.RangeIndex):
        raise DataError(
            f"the rows have more fields than the header, which names {len(table.columns)} columns",
            where=str(path),
            fix="name every column, and end no row with a comma",
        )
    with open(path, encoding="utf-8-sig", newline="") as file:
        header = next(csv.reader(file))
    if twice := sorted({name for name in header if name and header.count(name) > 1}):
        raise DataError(f"the column {twice[0]!r} stands twice", where=str(path), fix=KEEP_ONE)


def _positive(column: pd.Series, name: str, path: Path, optional: bool) -> pd.Series:
    """The column as positive floats; rows are named as in a spreadsheet: the header is 1."""
    numbers = pd.to_numeric(column, errors="coerce")
    bad = ~(numbers > 0) | (numbers == float("inf"))
    if optional:
        bad &= column.notna()
    if bad.any():
        rows = [f"{i + 2} ({value})" for i, value in column[bad].items()]
        more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
        raise DataError(
            f"{name} must be a positive number in every row",
            where=f"{path}, rows {', '.join(rows[:5])}{more}",
            fix="mend these rows, or leave them out and say so",
        )
    return numbers.astype(float)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a run table as CSV or parquet, whole or not at all.

    Raises:
        TrackError: The name ends in neither, or parquet cannot be written here.
    """
    if path.suffix not in {".csv", ".parquet"}:
        raise TrackError(
            f"cannot tell the format of {path.name}",
            where=str(path),
            fix="end the name in .csv or .parquet",
        )
    with whole(path) as file:
        if path.suffix == ".csv":
            file.write(table.to_csv(index=False).encode())
        else:
            try:
                table.to_parquet(file, index=False)
            except ImportError as error:
                raise TrackError(
                    "writing parquet needs pyarrow", where=str(path), fix=INSTALL_PARQUET
                ) from error
