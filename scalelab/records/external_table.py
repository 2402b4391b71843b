"""External tables under our column names, read from a file or a DataFrame, or refused with one reason.

    read_table(path, {"n_params": "N"})   ExternalTable(table, reading)

Row i of the table is row i + 2 of a spreadsheet: the index says where a row stands in its file.

Not here: bytes and formats (table_bytes.py, table_file.py), names (column_matching.py), numbers in
text (cells.py), which rows a law may be fitted to (evidence.py).
"""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from scalelab.errors import ConfigError, DataError, TrackError
from scalelab.files import whole
from scalelab.records.cells import DECIMALS, NUMBER_COLUMNS, Sign, decimal_comma, numbers, read_numbers
from scalelab.records.column_matching import ColumnMatching, match_columns
from scalelab.records.column_names import RECIPE
from scalelab.records.evidence import KNOWN
from scalelab.records.raw_table import FIRST_LINE, KEEP_ONE, RawTable
from scalelab.records.table_file import read_file
from scalelab.records.table_reading import CellConversion, TableReading

LARGEST_NAMES = 1_000_000
"""Bytes of a file of column names."""


class ExternalTable(NamedTuple):
    """A table under our column names, and how it was read."""

    table: pd.DataFrame
    reading: TableReading


def read_table(
    path: Path,
    columns: Mapping[str, str] | None = None,
    more: Sequence[str] = (),
    decimal: str | None = None,
    with_units: Collection[str] = (),
) -> ExternalTable:
    """Return the rows of a file under our column names, and how they were read.

    Args:
        path: The file: CSV (also with semicolons or tabs), Excel, JSON, JSONL, parquet or feather,
            also compressed.
        columns: What the file calls our columns: {"n_params": "N"}.
        more: Columns that mean something beside KNOWN: those that single laws read.
        decimal: Decimal sign of numbers in text, point or comma; None: as the cells show.
        with_units: Our columns whose unit is stated, so that their name need not say it.

    Raises:
        DataError: The file is no table, or lacks a column that every table has.
        ConfigError: The decimal sign is neither.
    """
    return _external(read_file(path), columns, more, str(path), decimal, with_units)


def named_table(
    raw: pd.DataFrame,
    columns: Mapping[str, str] | None = None,
    more: Sequence[str] = (),
    where: str = "the table",
    decimal: str | None = None,
    with_units: Collection[str] = (),
) -> ExternalTable:
    """Return a DataFrame under our column names, and how it was read. Its rows are counted from 0.

    Args:
        raw: The table.
        columns: Names in the table by our names: {"n_params": "N"}.
        more: Columns that single laws read.
        where: Name of the table in messages.
        decimal: Decimal sign of numbers in text, point or comma; None: as the cells show.
        with_units: Our columns whose unit is stated, so that their name need not say it.

    Raises:
        DataError: It lacks a column that every table has, has one twice, or has no rows.
        ConfigError: The decimal sign is neither.
    """
    if isinstance(raw.columns, pd.MultiIndex):
        raw = raw.set_axis(["/".join(map(str, name)) for name in raw.columns], axis=1)
    raw = raw.set_axis(pd.RangeIndex(-FIRST_LINE, len(raw) - FIRST_LINE), axis=0)
    return _external(RawTable(raw, "DataFrame"), columns, more, where, decimal, with_units)


def _external(
    raw: RawTable,
    columns: Mapping[str, str] | None,
    more: Sequence[str],
    where: str,
    decimal: str | None,
    with_units: Collection[str],
) -> ExternalTable:
    if decimal is not None and decimal not in DECIMALS:
        raise ConfigError(f"the decimal sign is {decimal!r}", where="--decimal", fix="use point or comma")
    table = raw.table.set_axis([str(name) for name in raw.table.columns], axis=1)
    if len(twice := table.columns[table.columns.duplicated()]):
        raise DataError(f"the column {twice[0][:40]!r} stands twice", where=where, fix=KEEP_ONE)
    matching = match_columns(table, columns or {}, (*KNOWN, *more), where, with_units)
    if table.empty:
        raise DataError("the table has no rows", where=where, fix="export it with its runs")
    renames = {theirs: ours for ours, theirs in matching.names.items()} | dict(matching.others)
    named = table.rename(columns=renames)
    number_columns = [name for name in dict.fromkeys((*NUMBER_COLUMNS, *more)) if name in named]
    sign = None if decimal is None else DECIMALS[decimal]
    if raw.as_text is not None and (sign == "," or (sign is None and decimal_comma(named[number_columns]))):
        as_text = raw.as_text().set_axis(table.columns, axis=1).rename(columns=renames)
        named = named.assign(**{name: as_text[name] for name in number_columns})
    named, conversions, used_sign = _numbers(
        named, number_columns, sign, raw.as_text is not None, matching, where
    )
    named = _plain_cells(named, (*KNOWN, *more, *RECIPE), where)
    return ExternalTable(
        named,
        TableReading(
            source=where,
            format=raw.format,
            rows=len(named),
            decimal=used_sign,
            columns=matching.names,
            matched=matching.matched,
            conversions=conversions,
            recipe=tuple(name for name in RECIPE if name in named),
            others={theirs: plain for theirs, plain in matching.others.items()},
            notes=matching.notes,
        ),
    )


def _numbers(
    named: pd.DataFrame,
    columns: Sequence[str],
    sign: Sign | None,
    is_text: bool,
    matching: ColumnMatching,
    where: str,
) -> tuple[pd.DataFrame, tuple[CellConversion, ...], Sign | None]:
    """Return the table with text that is a number made one, in the units that names give."""
    cells = read_numbers(
        {name: named[name] for name in columns}, decimal=sign, fractions=is_text, where=where
    )
    found = dict(cells.columns)
    conversions = list(cells.conversions)
    for name, scale in matching.scales.items():
        in_cells = next((c for c in conversions if c.column == name and "the unit" in c.how), None)
        if in_cells is not None:
            raise DataError(
                f"{name} has a unit in its name {matching.names[name]!r} and units in its cells, such as "
                f"{in_cells.example!r}",
                where=f"{where}, the column {matching.names[name]}",
                fix="give the unit once: rename the column, or write plain numbers",
            )
        values = numbers(found[name])
        first = values.dropna()
        if len(first):
            found[name] = (values * scale).where(values.notna(), found[name])
            how = f"the unit in the name {matching.names[name]!r}"
            example = f"{first.iloc[0]:.10g}"
            conversions.append(CellConversion(name, how, len(first), example, float(first.iloc[0]) * scale))
    return named.assign(**found), tuple(conversions), cells.decimal


def _plain_cells(named: pd.DataFrame, used: Sequence[str], where: str) -> pd.DataFrame:
    """Refuse lists and objects in the cells of columns that are used; in others they become text."""
    changed = {}
    for name in named:
        column = named[name]
        if pd.api.types.is_numeric_dtype(column) or isinstance(column.dtype, pd.StringDtype):
            continue
        column = column.astype(object)
        odd = [
            not (value is None or pd.api.types.is_scalar(value)) or isinstance(value, bytes)
            for value in column
        ]
        if any(odd) and name in used:
            row = odd.index(True)
            raise DataError(
                f"a cell of {name} is no number or word but {type(column.iloc[row]).__name__}: "
                f"{str(column.iloc[row])[:40]}",
                where=f"{where}, row {column.index[row] + FIRST_LINE}, the column {name}",
                fix="write one value in each cell",
            )
        changed[name] = pd.Series(
            [str(value) if is_odd else value for value, is_odd in zip(column, odd, strict=True)],
            column.index,
            dtype=object,
        )
    return named.assign(**changed)


def write_columns(columns: Mapping[str, Any], path: Path) -> None:
    """Write columns of equal length as a run table; see write_table."""
    write_table(pd.DataFrame(dict(columns)), path)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a run table as CSV or parquet, whole or not at all.

    Raises:
        TrackError: The name ends in neither, or parquet cannot be written here.
    """
    ending = path.suffix.lower()
    if ending not in {".csv", ".parquet"}:
        raise TrackError(
            f"unknown format of {path.name}", where=str(path), fix="end the name in .csv or .parquet"
        )
    with whole(path) as file:
        if ending == ".csv":
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


def parse_columns(text: str) -> dict[str, str]:
    """Return `n_params=N,loss=L`, or a file of such pairs, as a dict from our names to the table's.

    A file has one pair a line, or is a mapping in YAML or JSON. A name may have commas in it: a comma
    separates pairs only before another NAME=.

    Raises:
        ConfigError: A part is no pair, or the file cannot be read.
    """
    if "=" not in text and text.strip():
        return _columns_of_file(Path(text.strip()))
    return _pairs(re.split(r",(?=[^,=]*=)", text), "--columns")


def _pairs(parts: Sequence[str], where: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in parts:
        if not part.strip():
            continue
        ours, _, theirs = (side.strip() for side in part.partition("="))
        if not (ours and theirs) or ours in found:
            raise ConfigError(
                f"cannot read the column names {part.strip()[:80]!r}"
                + (f": {ours} is named twice" if ours in found else ""),
                where=where,
                fix="write them as --columns n_params=N,n_tokens=D,loss=L",
            )
        found[ours] = theirs
    return found


def _columns_of_file(path: Path) -> dict[str, str]:
    """Return the names in a file: `ours=theirs` lines, or a mapping in YAML or JSON."""
    from scalelab.config import parse_yaml

    if not path.is_file() or path.stat().st_size > LARGEST_NAMES:
        raise ConfigError(
            f"cannot read the column names {str(path)[:80]!r}: "
            + ("the file is too large" if path.is_file() else "it is no pair, and there is no such file"),
            where="--columns",
            fix="write them as --columns n_params=N,n_tokens=D,loss=L, or one a line in a file",
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read the column names: {error}", where=str(path), fix="name a readable file in UTF-8"
        ) from error
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if all("=" in line for line in lines):
        return _pairs(lines, str(path))
    mapping = parse_yaml(text, str(path)).data
    if not isinstance(mapping, Mapping) or any(isinstance(v, Mapping | list) for v in mapping.values()):
        raise ConfigError(
            "the file of column names is no mapping of our names to those of the table",
            where=str(path),
            fix="write one pair a line: n_params=N or n_params: N",
        )
    return {str(ours): str(theirs) for ours, theirs in mapping.items()}
