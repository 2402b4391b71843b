"""Records of parquet: one row each, read in batches.

Not here: which fields a record needs (records.py).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scalelab.data.files.compression import needs
from scalelab.data.files.opening import open_source, unreadable
from scalelab.errors import DataError
from scalelab.markup import printable

_ROWS = 1024


def parquet_records(path: Path, field: str | None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number, from 1, and cells of each row; of the columns that a field needs, or of all.

    Raises:
        DataError: The file is not whole, has no such column, or pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise needs("pyarrow", path) from None
    try:
        with (
            open_source(path) as opened,
            parquet.ParquetFile(opened, page_checksum_verification=True) as file,
        ):
            names = file.schema_arrow.names
            repeated = next((name for name in names if names.count(name) > 1), None)
            if repeated is not None:
                raise DataError(
                    f"two columns are named {repeated!r}", where=str(path), fix="rename one of the two"
                )
            columns = None if field is None else [_column(field, names, path)]
            row = 0
            for batch in file.iter_batches(batch_size=_ROWS, columns=columns):
                for record in batch.to_pylist():
                    row += 1
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
