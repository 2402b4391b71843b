"""Anybody's table, read from a file: refused with one reason where it is none.

    read_table(path, {"n_params": "N"})   rows as they stand, under our column names

A file is looked at before it is read: whether it is a file, how large, whether it is text. So a
device, a pipe, an archive or a corpus named by mistake is answered at once.

Not here: which rows a law may be fitted to, and whether their numbers are numbers (table.py).
"""

import csv
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from scalelab.errors import DataError, TrackError
from scalelab.files import whole
from scalelab.registry import did_you_mean
from scalelab.track.evidence import KNOWN, NEEDED, PARAM_COLUMNS

LARGEST = 500_000_000
"""Bytes of a file that is read: a million runs with thirty columns have 300 MB."""
HEADER = 1 << 20
"""Bytes within which the first line must end; ours has 500."""
MOST_COLUMNS = 1000
SHOWN = 20
"""Columns that a message lists."""
KEEP_ONE = "keep one of the two"
NAME_A_TABLE = "name a CSV or parquet file with a header and a row per run"


def read_table(
    path: Path, columns: dict[str, str] | None = None, more: Sequence[str] = ()
) -> pd.DataFrame:
    """The rows of a CSV or parquet file; row i of a CSV is line i + 2 of the file.

    Args:
        path: The file.
        columns: What the file calls our columns: {"n_params": "N"}.
        more: Columns that mean something beside KNOWN: those that single laws read.

    Raises:
        DataError: The file is no table, or lacks a column that every table has.
    """
    renames = {theirs: ours for ours, theirs in (columns or {}).items()}
    known = list(dict.fromkeys((*KNOWN, *more)))
    for ours in renames.values():
        if ours not in known:
            raise DataError(
                f"{ours!r} is not a column that we use{did_you_mean(ours, known)}",
                where=f"the new names for the columns of {path}",
                fix=f"name these: {', '.join(known)}",
            )
    raw = _load(path)
    names = [str(name)[:40] for name in raw.columns]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    there = f"{path}, whose columns are {', '.join(names[:SHOWN])}{more}"
    if missing := [name for name in renames if name not in raw]:
        raise DataError(
            f"the table has no column {', '.join(map(repr, missing))}",
            where=there,
            fix="name columns that are there: --columns n_params=N,n_tokens=D,loss=L",
        )
    table = raw.rename(columns=renames)
    if len(twice := table.columns[table.columns.duplicated()]):
        raise DataError(f"the column {twice[0]!r} stands twice", where=there, fix=KEEP_ONE)
    counted = any(name in table for name in PARAM_COLUMNS)
    if missing := [n for n in NEEDED if n not in table and not (n == "n_params" and counted)]:
        fix = "say what it calls them: --columns " + ",".join(f"{name}=NAME" for name in missing)
        if len(names) == 1 and (mark := next((m for m in ";\t|" if m in names[0]), None)):
            fix = f"separate the columns by commas instead of {mark!r}"
        raise DataError(f"the table has no column {', '.join(missing)}", where=there, fix=fix)
    if table.empty:
        raise DataError("the table has no rows", where=str(path), fix="export it with its runs")
    return table


def _load(path: Path) -> pd.DataFrame:
    """The file as it stands."""
    try:
        problem = _at_a_glance(path)
        if problem is None and path.suffix == ".parquet":
            return pd.read_parquet(path)
        if problem is None:
            # One look at each column: by parts, a column of 1, 2, x would be of mixed types.
            _refuse_crooked_header(path)
            table = pd.read_csv(path, skip_blank_lines=False, low_memory=False, compression=None)
            _refuse_crooked_rows(path, table)
            return table.dropna(how="all") if len(table.columns) > 1 else table
    except FileNotFoundError:
        problem = "there is no such file"
    except pd.errors.EmptyDataError:
        problem = "the file is empty"
    except UnicodeDecodeError:
        problem = "the file is not text"
    except (pd.errors.ParserError, csv.Error, OSError, ValueError) as error:
        problem = f"it cannot be read as a table: {str(error).splitlines()[0][:200]}"
    except ImportError as error:
        raise DataError(
            "reading parquet needs pyarrow",
            where=str(path),
            fix="pip install 'scalelab[text]', or use .csv",
        ) from error
    raise DataError(problem, where=str(path), fix=NAME_A_TABLE)


def _at_a_glance(path: Path) -> str | None:
    """Why the file is no table, as far as its kind, size and first bytes tell."""
    seen = path.stat()
    if stat.S_ISDIR(seen.st_mode):
        return "it cannot be read as a table: it is a directory"
    if not stat.S_ISREG(seen.st_mode):
        return "it cannot be read as a table: it is a device or a pipe, not a file"
    if not seen.st_size:
        return "the file is empty"
    if seen.st_size > LARGEST:
        limit = f"{LARGEST / 1e6:.0f} MB"
        return f"the file has {seen.st_size / 1e6:.0f} MB, and a run table at most {limit}"
    if path.suffix == ".parquet":
        return None
    with open(path, "rb") as file:
        head = file.read(HEADER)
    if b"\0" in head:
        return "the file is not text"
    if head.lstrip()[:1] in (b"{", b"["):
        return "it is JSON, not CSV"
    if len(head) == HEADER and b"\n" not in head and b"\r" not in head:
        return f"its first line is longer than {HEADER / 1e6:.0f} MB: no header of a table"
    return None


def _refuse_crooked_header(path: Path) -> None:
    """Refuse a corpus, and what pandas reads without a word: names that it makes different."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        header = next(csv.reader(file), [])
    if len(header) > MOST_COLUMNS:
        raise DataError(
            f"the first line has {len(header)} fields, and a run table at most {MOST_COLUMNS}",
            where=str(path),
            fix=NAME_A_TABLE,
        )
    if twice := [name for name, count in Counter(header).items() if name and count > 1]:
        raise DataError(f"the column {twice[0]!r} stands twice", where=str(path), fix=KEEP_ONE)


def _refuse_crooked_rows(path: Path, table: pd.DataFrame) -> None:
    """Refuse what pandas reads without a word: columns that are shifted."""
    if not isinstance(table.index, pd.RangeIndex):
        raise DataError(
            f"the rows have more fields than the header, which names {len(table.columns)} columns",
            where=str(path),
            fix="name every column, and end no row with a comma",
        )


def write_columns(columns: Mapping[str, Any], path: Path) -> None:
    """Write columns of equal length as a run table; see write_table."""
    write_table(pd.DataFrame(dict(columns)), path)


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
                    "writing parquet needs pyarrow",
                    where=str(path),
                    fix="pip install 'scalelab[text]', or use .csv",
                ) from error
