"""Rows and columns of a table file, as they stand.

    read_file(path) -> RawTable      its rows, its format, and the lines they stand on

Formats are recognised by their content: text separated by commas, semicolons, tabs or bars; JSON (an
array of objects, an object of arrays, or an object a line); Excel, parquet and feather.

The index of the table is the line of a row in its file, less 2, so that a spreadsheet's first row
under its header has 0. Rows of JSON arrays, parquet and feather count from 1: their first is -1.

Not here: sizes and compression (table_bytes.py), names of columns (column_matching.py).
"""

import csv
from pathlib import Path

import pandas as pd

from scalelab.errors import DataError
from scalelab.records.binary_table import feather_table, parquet_table, xlsx_table
from scalelab.records.json_table import json_table
from scalelab.records.raw_table import RawTable
from scalelab.records.table_bytes import NAME_A_TABLE, TableBytes, open_table
from scalelab.records.text_table import text_table


def read_file(path: Path) -> RawTable:
    """Return the rows and columns of a file.

    Raises:
        DataError: The file is no table, or is too large.
    """
    source = open_table(path)
    try:
        return _READERS[source.kind](source)
    except pd.errors.EmptyDataError:
        problem, fix = "the file is empty", NAME_A_TABLE
    except UnicodeDecodeError as error:
        line = _line_of(source)
        problem = f"the file is not text in UTF-8: byte {error.object[error.start]:#04x} in line {line}"
        fix = "save the table as UTF-8"
    except RecursionError:
        problem, fix = "its objects are nested too deeply", NAME_A_TABLE
    except ImportError as error:
        name = "openpyxl" if source.kind == "xlsx" else "pyarrow"
        extra = "tables" if source.kind == "xlsx" else "text"
        raise DataError(
            f"reading {source.kind} needs {name}",
            where=str(path),
            fix=f"pip install 'scalelab[{extra}]', or save the table as .csv",
        ) from error
    except (pd.errors.ParserError, csv.Error, OSError, ValueError) as error:
        text = (str(error).splitlines() or [type(error).__name__])[0][:200]
        problem, fix = f"it cannot be read as a table: {text}", NAME_A_TABLE
    raise DataError(problem, where=str(path), fix=fix)


def _line_of(source: TableBytes) -> int:
    """Return the first line that is not UTF-8."""
    with source.open() as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 1


_READERS = {
    "text": text_table,
    "json": json_table,
    "xlsx": xlsx_table,
    "parquet": parquet_table,
    "feather": feather_table,
}
