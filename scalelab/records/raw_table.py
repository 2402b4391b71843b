"""A table as its file has it, before its columns have our names.

Not here: how each format is read (text_table.py, json_table.py, binary_table.py).
"""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from scalelab.errors import DataError
from scalelab.records.table_bytes import NAME_A_TABLE, TableBytes

MOST_COLUMNS = 1000
KEEP_ONE = "keep one of the two"
FIRST_LINE = 2
"""Line of a spreadsheet's first row below its header: what the index of a table leaves out."""


@dataclass(frozen=True, eq=False)
class RawTable:
    """A table as its file has it."""

    table: pd.DataFrame
    """Its index is the line of a row in its file, less FIRST_LINE."""
    format: str
    """Format in words: "CSV, separated by semicolons"."""
    as_text: Callable[[], pd.DataFrame] | None = None
    """Reads the same rows with every cell as text; None where numbers are not text in the file."""


def in_words(source: TableBytes, words: str) -> str:
    """Return the words for a format with the compression of the file."""
    return f"{words}, unpacked from {source.packing}" if source.packing else words


def refused(source: TableBytes, problem: str) -> DataError:
    """Return the error for a file that is no table."""
    return DataError(problem, where=str(source.path), fix=NAME_A_TABLE)
