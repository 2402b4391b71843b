"""Tables in binary files: Excel, parquet and feather, each with a library of its own.

Rows of parquet and feather count from 1, as records; those of Excel have their line in the sheet. Rows
and columns are counted before cells are unpacked.

Not here: sizes and compression of whole files (table_bytes.py).
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pandas as pd

from scalelab.errors import DataError
from scalelab.records.raw_table import FIRST_LINE, MOST_COLUMNS, RawTable, in_words, refused
from scalelab.records.table_bytes import TableBytes
from scalelab.records.text_table import check_header

MOST_CELLS = 30_000_000
"""Rows times columns of a binary table: a million runs with thirty columns."""


def xlsx_table(source: TableBytes) -> RawTable:
    """Return the rows of an Excel workbook, which has one sheet with content."""
    import openpyxl

    with _any_damage(), warnings.catch_warnings(), source.open() as file:
        warnings.simplefilter("ignore")  # of styles and extensions, which hold no cells
        book = openpyxl.load_workbook(file, read_only=True, data_only=True, keep_links=False)
        try:
            sheets = [(sheet.title, _sheet_rows(source, sheet)) for sheet in book.worksheets]
        finally:
            book.close()
    filled = [(title, rows) for title, rows in sheets if rows]
    if not filled:
        raise pd.errors.EmptyDataError
    if len(filled) > 1:
        raise DataError(
            f"the workbook has {len(filled)} sheets with content: {', '.join(title for title, _ in filled[:10])}",
            where=str(source.path),
            fix="save the sheet with the runs as a file of its own, .xlsx or .csv",
        )
    title, rows = filled[0]
    header = [("" if cell is None else str(cell)) for cell in rows[0][1]]
    while header and not header[-1]:
        header.pop()
    check_header(source, header)
    header = [name or f"Unnamed: {i}" for i, name in enumerate(header)]
    for line, cells in rows[1:]:
        if any(cell is not None for cell in cells[len(header) :]):
            raise DataError(
                "a row has more fields than the header",
                where=f"{source.path}, sheet {title!r}, row {line}",
                fix="name every column",
            )
    body = [list(cells[: len(header)]) + [None] * (len(header) - len(cells)) for _, cells in rows[1:]]
    index = pd.Index([line - FIRST_LINE for line, _ in rows[1:]], dtype=int)
    columns = {
        name: pd.Series([row[i] for row in body], index, dtype=object) for i, name in enumerate(header)
    }
    return RawTable(pd.DataFrame(columns).infer_objects(), f"Excel, sheet {title!r}")


def _sheet_rows(source: TableBytes, sheet: Any) -> list[tuple[int, tuple[Any, ...]]]:
    """Line and cells of each row of a sheet that is not empty; a sheet's stated size is not believed."""
    sheet.reset_dimensions()
    rows, cells = [], 0
    for line, row in enumerate(sheet.iter_rows(values_only=True), 1):
        cells += len(row)
        if cells > MOST_CELLS:
            raise refused(source, f"the sheet has more than {MOST_CELLS:,} cells")
        if any(cell is not None and cell != "" for cell in row):
            rows.append((line, row))
    return rows


def parquet_table(source: TableBytes) -> RawTable:
    """Return the rows of a parquet file."""
    from pyarrow import parquet

    with _any_damage():
        with source.open() as file:
            seen = parquet.ParquetFile(file).metadata
            size = sum(seen.row_group(i).total_byte_size for i in range(seen.num_row_groups))
            _check_cells(source, seen.num_rows, seen.num_columns, size)
        with source.open() as file:
            table = pd.read_parquet(file, engine="pyarrow")
    return _binary(source, table, "parquet")


def feather_table(source: TableBytes) -> RawTable:
    """Return the rows of a feather file (Arrow IPC)."""
    from pyarrow import feather, ipc

    with _any_damage():
        with source.open() as file:
            reader = ipc.open_file(file)
            rows = 0
            first = ipc.IpcReadOptions(included_fields=[0])
            with source.open() as again:
                narrow = ipc.open_file(again, options=first)
                for i in range(reader.num_record_batches):
                    rows += narrow.get_batch(i).num_rows
                    _check_cells(source, rows, len(reader.schema), 0)
        with source.open() as file:
            table = feather.read_feather(file)
    return _binary(source, table, "feather")


@contextmanager
def _any_damage() -> Iterator[None]:
    """Turn what a library says of a damaged file into a ValueError; each has errors of its own."""
    try:
        yield
    except (DataError, ImportError):
        raise
    except Exception as error:
        raise ValueError(str(error) or type(error).__name__) from error


def _check_cells(source: TableBytes, rows: int, columns: int, size: int) -> None:
    """Refuse a table that would fill the memory, before its columns are unpacked."""
    if columns > MOST_COLUMNS:
        raise refused(source, f"the table has {columns} columns, and a run table at most {MOST_COLUMNS}")
    if rows * columns > MOST_CELLS or size > 20 * MOST_CELLS:
        raise refused(
            source,
            f"the table has {rows:,} rows of {columns} columns, {size / 1e6:,.0f} MB once unpacked: "
            f"a run table has at most {MOST_CELLS:,} cells",
        )


def _binary(source: TableBytes, table: pd.DataFrame, words: str) -> RawTable:
    if not isinstance(table.index, pd.RangeIndex) and table.index.names != [None]:
        table = table.reset_index()
    table.index = pd.RangeIndex(1 - FIRST_LINE, len(table) + 1 - FIRST_LINE)
    return RawTable(table, in_words(source, words))
