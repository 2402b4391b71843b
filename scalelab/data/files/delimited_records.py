"""Records of .csv and .tsv: a header, then one row a record; quoted as in RFC 4180.

A row with more or fewer cells than the header is refused: otherwise text with an
unquoted comma would lose its end. The delimiter of a .csv is the one of , ; tab | that
gives the header the most columns.

Source: RFC 4180.
Not here: tables of runs (records/external_table.py).
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scalelab.data.files.plain import MAX_BYTES, lines
from scalelab.errors import DataError

_DELIMITERS = ",;\t|"


def csv_records(path: Path, field: str | None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield first line and cells of each row of a .csv. Raises DataError naming the line."""
    del field
    yield from _records(path, None)


def tsv_records(path: Path, field: str | None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield first line and cells of each row of a .tsv. Raises DataError naming the line."""
    del field
    yield from _records(path, "\t")


def _records(path: Path, delimiter: str | None) -> Iterator[tuple[int, dict[str, Any]]]:
    source = _Lines(path)
    csv.field_size_limit(MAX_BYTES)
    delimiter = delimiter or _delimiter(source.peek())
    rows = csv.reader(source, delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        first = source.n_taken + 1
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise DataError(
                f"not a row of a table: {error}",
                where=f"{path}:{first}",
                fix='quote cells that contain quotes, and double those quotes: "a ""b"" c"; or save as JSONL',
            ) from None
        if row is None:
            return
        if not row:
            continue
        if header is None:
            header = row
            _check_header(path, header, first)
            continue
        if len(row) != len(header):
            raise DataError(
                f"the row has {len(row)} cells, but the header names {len(header)}",
                where=f"{path}:{first}",
                fix="quote cells that hold the delimiter, or save the table as JSONL",
            )
        yield first, dict(zip(header, row, strict=True))


class _Lines:
    """Lines for the csv module, counted, with a look at the first."""

    def __init__(self, path: Path):
        self._lines = (line for _, line in lines(path))
        self._first: str | None = None
        self.n_taken = 0

    def peek(self) -> str:
        if self._first is None:
            self._first = next(self._lines, "")
        return self._first

    def __iter__(self) -> "Iterator[str]":
        return self

    def __next__(self) -> str:
        line = self._first or next(self._lines)
        self._first = None
        self.n_taken += 1
        return line


def _delimiter(header: str) -> str:
    """Return the delimiter that gives a header the most columns; a comma in a tie."""
    return max(_DELIMITERS, key=header.count)


def _check_header(path: Path, header: list[str], line: int) -> None:
    repeated = next((name for name in header if header.count(name) > 1), None)
    if repeated is not None:
        raise DataError(
            f"two columns are named {repeated!r}",
            where=f"{path}:{line}",
            fix="rename one of the two, or add the header if the table has none",
        )
