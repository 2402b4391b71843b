"""Records of a file, each a mapping of fields, read by the ending of the file's name.

    .jsonl .ndjson      one object per line
    .json               an array of objects, or objects one after another
    .csv .tsv           rows under a header
    .parquet            rows

The case of an ending does not matter, and all but parquet may be compressed (compression.py). A field
is named by its key or by a dotted path into objects, such as `meta.text`; a key that contains the dots
comes first.

Not here: text without records (plain.py).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from scalelab.data.base import SkippedDocuments
from scalelab.data.files.compression import kind_and_packing
from scalelab.data.files.delimited_records import csv_records, tsv_records
from scalelab.data.files.json_records import json_line_records, json_records
from scalelab.data.files.parquet_records import parquet_records
from scalelab.data.files.plain import MAX_BYTES, check_characters, too_large
from scalelab.errors import DataError
from scalelab.markup import printable

Reader = Callable[[Path, str | None], Iterator[tuple[int, Mapping[str, Any]]]]
"""Yields number and fields of each record; of all fields, or only of the one that is named."""


@dataclass(frozen=True)
class RecordFormat:
    """How the files of one ending are read."""

    read: Reader
    unit: str
    """What the number of a record counts: "line" or "row"."""
    may_be_packed: bool = True


FORMATS = {
    ".jsonl": RecordFormat(json_line_records, "line"),
    ".ndjson": RecordFormat(json_line_records, "line"),
    ".json": RecordFormat(json_records, "line"),
    ".csv": RecordFormat(csv_records, "line"),
    ".tsv": RecordFormat(tsv_records, "line"),
    ".parquet": RecordFormat(parquet_records, "row", may_be_packed=False),
}


def record_format(name: str | PurePath) -> RecordFormat | None:
    """Return how the records of a file are read; None if it is not a file of records."""
    kind, packing = kind_and_packing(name)
    found = FORMATS.get(kind)
    return found if found is not None and (found.may_be_packed or not packing) else None


def rows_of(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the location and the fields of each record of a file.

    Raises:
        DataError: It is not a file of records, or a record cannot be read.
    """
    form = record_format(path)
    if form is None:
        raise DataError(
            f"{path.name} is not a file of records",
            where=str(path),
            fix=f"name files that end in {', '.join(FORMATS)}, or one of these and .gz, .bz2, .xz or .zst",
        )
    for number, record in form.read(path, None):
        yield _where(path, form, number), record


def text_records(path: Path, name: str, field: str, skips: SkippedDocuments) -> Iterator[tuple[str, str]]:
    """Yield the name and text of each record of a file; records without text are counted.

    Args:
        path: A file for which record_format is known.
        name: What to call the file in the names of documents.
        field: Key or dotted path of the text.
        skips: Records whose text is null, empty or blank are counted here.

    Raises:
        DataError: A record cannot be read, has no such field, or holds no text in it.
    """
    form = record_format(path)
    assert form is not None
    for number, record in form.read(path, field):
        where = _where(path, form, number)
        value = lookup(record, field, where)
        if value is None or (isinstance(value, str) and not value.strip()):
            skips.note("empty", f"{name}:{number}")
            continue
        if not isinstance(value, str):
            raise DataError(
                f"the field {field!r} holds {type(value).__name__}, not text: {value!r:.60}",
                where=where,
                fix="name the field that holds the text (field: ...)"
                + (f"; there are: {field_names(record)}" if len(record) > 1 else ""),
            )
        if len(value) > MAX_BYTES:
            raise too_large("the record", where, "divide the record, or leave it out")
        check_characters(value, where)
        yield f"{name}:{number}", value


def lookup(record: Mapping[str, Any], field: str, where: str) -> Any:
    """Return what a record holds under a key or a dotted path.

    Raises:
        DataError: It has no such field; the fields that it has are listed.
    """
    if field in record:
        return record[field]
    value: Any = record
    for part in field.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise DataError(
                f"the record has no field {field!r}",
                where=where,
                fix=f"name the field that holds the text (field: ...); there are: {field_names(record)}",
            )
        value = value[part]
    return value


def field_names(record: Mapping[str, Any]) -> str:
    """Return the fields of a record as a list for messages, those of objects as dotted paths."""
    names: list[str] = []
    for key, value in record.items():
        if isinstance(value, Mapping) and value:
            names += [f"{key}.{inner}" for inner in value]
        else:
            names.append(str(key))
    shown = printable(", ".join(name[:60] for name in names[:12]))
    return (shown + (", ..." if len(names) > 12 else "")) or "no fields"


def _where(path: Path, form: RecordFormat, number: int) -> str:
    return f"{path}:{number}" if form.unit == "line" else f"{path}, {form.unit} {number}"
