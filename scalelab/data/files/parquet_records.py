"""Records of parquet: one row each, read in batches.

A few bytes of parquet can stand for gigabytes. A column of a row group that unpacks to more than MAX_COLUMN_BYTES, or
expands far more than text does, is refused by what the footer says of it. Text that is stored once for many rows
(dictionary pages) stays stored once in memory, rows are taken out of a batch one at a time, and the text of all rows
is counted against the size of the file.

Source: Apache Parquet format, thrift definition of ColumnMetaData.
Not here: which fields a record needs (records.py).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scalelab.data.files.compression import MAX_RATIO, RATIO_FROM, needs
from scalelab.data.files.opening import open_source, unreadable
from scalelab.errors import DataError
from scalelab.markup import printable

MAX_COLUMN_BYTES = 2 * 2**30
"""Most uncompressed bytes of one column in one row group: they are in memory at once."""
_ROWS = 1024
_FEW_ROWS = 16
"""Rows of a batch where a text that is stored once for many rows is in memory once for each."""


def parquet_records(path: Path, field: str | None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number, from 1, and cells of each row; of the columns that a field needs, or of all.

    Raises:
        DataError: The file is not whole, has no such column, expands far more than text does, or pyarrow is not
            installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise needs("pyarrow", path) from None
    try:
        with open_source(path) as opened:
            repeating = _repeating_columns(parquet.ParquetFile(opened).metadata, path)
            is_nested = any(
                "." in name for name in repeating
            )  # pyarrow cannot keep these apart from their rows
            with parquet.ParquetFile(
                opened, page_checksum_verification=True, read_dictionary=[] if is_nested else repeating
            ) as file:
                names = file.schema_arrow.names
                repeated = next((name for name in names if names.count(name) > 1), None)
                if repeated is not None:
                    raise DataError(
                        f"two columns are named {repeated!r}", where=str(path), fix="rename one of the two"
                    )
                columns = None if field is None else [_column(field, names, path)]
                row = n_bytes = 0
                most = max(RATIO_FROM, MAX_RATIO * path.stat().st_size)
                for batch in file.iter_batches(batch_size=_FEW_ROWS if is_nested else _ROWS, columns=columns):
                    cells = list(zip(batch.schema.names, batch.columns, strict=True))
                    for i in range(batch.num_rows):
                        row += 1
                        record = {name: column[i].as_py() for name, column in cells}
                        n_bytes += sum(len(cell) for cell in record.values() if isinstance(cell, str | bytes))
                        if n_bytes > most:
                            raise _bomb(path, f"{path}, row {row}", path.stat().st_size, n_bytes)
                        yield row, record
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        if getattr(error, "errno", None) is not None:
            raise unreadable(path, error) from error
        # pyarrow reports some damage as an OSError without a number.
        raise DataError(
            f"cannot read {path.name} as parquet: {printable(str(error).splitlines()[0])}",
            where=str(path),
            fix="name a complete parquet file",
        ) from error


def _repeating_columns(metadata: Any, path: Path) -> list[str]:
    """Return the columns of text with dictionary pages, by their paths in the schema.

    Raises:
        DataError: A column expands far more than text does, or is too large to be in memory.
    """
    found: dict[str, None] = {}
    for i in range(metadata.num_row_groups):
        for j in range(metadata.num_columns):
            column = metadata.row_group(i).column(j)
            packed, unpacked = column.total_compressed_size, column.total_uncompressed_size
            where = f"{path}, row group {i}, column {printable(column.path_in_schema)}"
            if unpacked > max(RATIO_FROM, MAX_RATIO * packed):
                raise _bomb(path, where, packed, unpacked)
            if unpacked > MAX_COLUMN_BYTES:
                raise DataError(
                    f"a row group of {path.name} has {unpacked:,} bytes in one column, more than "
                    f"{MAX_COLUMN_BYTES:,}",
                    where=where,
                    fix="write the file again with smaller row groups (pyarrow: row_group_size)",
                )
            if column.has_dictionary_page and column.physical_type == "BYTE_ARRAY":
                found[column.path_in_schema] = None
    return list(found)


def _bomb(path: Path, where: str, packed: int, unpacked: int) -> DataError:
    return DataError(
        f"{path.name} unpacks to more than {MAX_RATIO} times its size: {packed:,} bytes stand for {unpacked:,}",
        where=where,
        fix="leave the file out; if its text is wanted, save it as JSONL and name that file",
    )


def _column(field: str, names: list[str], path: Path) -> str:
    """Return the column of a field: of its name, or the first part of a dotted path."""
    column = field if field in names else field.partition(".")[0]
    if column not in names:
        raise DataError(
            f"the table has no column {column!r}",
            where=str(path),
            fix=f"name the column that holds the text (field: ...); there are: {printable(', '.join(names))}",
        )
    return column
