"""Tables in text: fields separated by commas, semicolons, tabs or bars.

The separator is the one with which every line has as many fields as the header.

Not here: decimal commas (cells.py), sizes and encodings (table_bytes.py).
"""

import csv
import io
from collections import Counter
from itertools import islice

import pandas as pd

from scalelab.errors import DataError
from scalelab.records.raw_table import FIRST_LINE, KEEP_ONE, MOST_COLUMNS, RawTable, in_words, refused
from scalelab.records.table_bytes import TableBytes

HEADER = 1 << 20
"""Bytes within which the first line must end; ours has 500."""
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
SAMPLE = 200
"""Lines by which a separator is chosen."""
MOST_ROWS = 2_000_000
"""A file of more lines is a corpus or a log."""


def text_table(source: TableBytes, as_text: bool = False) -> RawTable:
    """Return a table in text; with `as_text` every cell of it is text.

    Raises:
        DataError: A row has more or fewer fields than the header.
    """
    with source.open() as file:
        head = file.read(HEADER)
    if len(head) == HEADER and b"\n" not in head and b"\r" not in head:
        raise refused(source, f"its first line is longer than {HEADER / 1e6:.0f} MB: no header of a table")
    with _lines(source) as file:
        sample = list(islice(file, SAMPLE))
    separator, skip = _separator(sample)
    lines = _checked_lines(source, separator, skip)
    with source.open() as file:
        table = pd.read_csv(
            file,
            sep=separator,
            skiprows=skip,
            skip_blank_lines=False,
            low_memory=False,  # by parts, a column of 1, 2, x would be of mixed types
            compression=None,
            encoding="utf-8-sig",
            index_col=False,
            dtype=str if as_text else None,
        )
    if len(table) != len(lines):
        raise refused(source, "it cannot be read as a table: a quoted text does not end")
    table.index = pd.Index([line - FIRST_LINE for line in lines], dtype=int)
    table = table.dropna(how="all") if len(table.columns) > 1 else table
    words = f"CSV, separated by {SEPARATORS[separator]}"
    return RawTable(table, in_words(source, words), lambda: text_table(source, as_text=True).table)


def _lines(source: TableBytes) -> io.TextIOWrapper:
    return io.TextIOWrapper(source.open(), encoding="utf-8-sig", newline="")


def _separator(sample: list[str]) -> tuple[str, int]:
    """Return the separator of some first lines, and how many lines stand above the header."""
    skip = 0
    if sample and sample[0].strip().lower() in {f"sep={mark}" for mark in SEPARATORS}:
        return sample[0].strip()[-1], 1
    while skip < len(sample) and not sample[skip].strip():
        skip += 1
    found = []
    for mark in SEPARATORS:
        try:
            widths = [len(row) for row in csv.reader(sample[skip:], delimiter=mark) if row]
        except csv.Error:  # a line without this mark may be longer than a field can be
            continue
        if widths and widths[0] > 1:
            alike = sum(width == widths[0] for width in widths) / len(widths)
            found.append((alike, widths[0], mark))
    return (max(found, key=lambda each: each[:2])[2] if found else ","), skip


def _checked_lines(source: TableBytes, separator: str, skip: int) -> list[int]:
    """Return the line on which each row starts, blank ones included, where every row fits the header.

    pandas fills rows that are too short, and shifts columns where all rows are too long.
    """
    lines: list[int] = []
    with _lines(source) as file:
        for _ in range(skip):
            next(file)
        reader = csv.reader(file, delimiter=separator)
        header = next(reader, [])
        check_header(source, header)
        line = skip + reader.line_num + 1
        for row in reader:
            lines.append(line)
            if len(lines) > MOST_ROWS:
                raise refused(source, f"it has more than {MOST_ROWS:,} lines, and a run table has one a run")
            if row and len(row) != len(header):
                more = len(row) > len(header)
                raise DataError(
                    f"a row has {len(row)} fields, {'more' if more else 'fewer'} than the header, which has "
                    f"{len(header)}",
                    where=f"{source.path}, row {line}",
                    fix="name every column, end no row with a separator, and quote fields that have it in them"
                    if more
                    else "fill the row up, with empty fields where nothing is known",
                )
            line = skip + reader.line_num + 1
    return lines


def check_header(source: TableBytes, header: list[str]) -> None:
    """Refuse a corpus, and what pandas reads without a word: names that it makes different."""
    if len(header) > MOST_COLUMNS:
        raise refused(
            source, f"the first line has {len(header)} fields, and a run table at most {MOST_COLUMNS}"
        )
    if twice := [name for name, count in Counter(header).items() if name and count > 1]:
        raise DataError(f"the column {twice[0][:40]!r} stands twice", where=str(source.path), fix=KEEP_ONE)
