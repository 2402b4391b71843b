"""Tables in JSON: an array of objects, an object of arrays, or an object a line.

Objects in a row are columns: {"config": {"lr": 1e-3}} is config/lr.

Not here: names of columns (column_matching.py), sizes (table_bytes.py).
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from scalelab.errors import DataError
from scalelab.records.raw_table import FIRST_LINE, MOST_COLUMNS, RawTable, in_words, refused
from scalelab.records.table_bytes import TableBytes

LONGEST_INTEGER = 300
"""Digits of an integer that a float can hold."""
DEEPEST = 4
"""Levels of objects in a JSON row that become columns: config/model/width."""


def json_table(source: TableBytes) -> RawTable:
    """Return the rows of JSON: an array of objects, an object of arrays, or an object a line.

    Raises:
        DataError: A row is no object.
    """
    with source.open() as file:
        text = file.read().decode("utf-8-sig")
    lines: list[int] | None = None
    try:
        content = json.loads(text, object_pairs_hook=_unique, parse_int=_integer)
        words = "JSON"
    except json.JSONDecodeError:
        content, lines, words = *_json_lines(source, text), "JSONL"
    if isinstance(content, dict):
        if content and all(isinstance(value, list) for value in content.values()):
            lengths = {len(value) for value in content.values()}
            if len(lengths) > 1:
                raise refused(source, f"its columns have different lengths: {sorted(lengths)[:5]}")
            content = [dict(zip(content, row, strict=True)) for row in zip(*content.values(), strict=True)]
        else:
            content = [content]
    if not content:
        raise refused(source, "the table has no rows")
    bad = next((i for i, row in enumerate(content) if not isinstance(row, dict)), None)
    if bad is not None:
        raise DataError(
            f"a row is no JSON object but {json.dumps(content[bad])[:40]}",
            where=f"{source.path}, row {lines[bad] if lines else bad + 1}",
            fix='write an array of objects, or one object a line: {"n_params": 1e8, ...}',
        )
    rows = [dict(_flat(row)) for row in content]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if len(columns) > MOST_COLUMNS:
        raise refused(source, f"its rows have {len(columns)} names, and a run table at most {MOST_COLUMNS}")
    at = lines or range(1, len(rows) + 1)
    index = pd.Index([line - FIRST_LINE for line in at], dtype=int)
    table = pd.DataFrame(
        {name: pd.Series([row.get(name) for row in rows], index, dtype=object) for name in columns}
    )
    return RawTable(table.infer_objects(), in_words(source, words))


def _json_lines(source: TableBytes, text: str) -> tuple[list[Any], list[int]]:
    rows, lines = [], []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line, object_pairs_hook=_unique, parse_int=_integer))
        except json.JSONDecodeError as error:
            raise DataError(
                f"it cannot be read as JSON: {error.msg}",
                where=f"{source.path}, line {number}, column {error.colno}",
                fix='write an array of objects, or one object a line: {"n_params": 1e8, ...}',
            ) from error
        lines.append(number)
    return rows, lines


def _integer(digits: str) -> int | str:
    """Return an integer, or its digits where it is far beyond every number of a run."""
    return int(digits) if len(digits) <= LONGEST_INTEGER else digits


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        name = next(name for name, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the name {name[:40]!r} stands twice in one object")
    return found


def _flat(row: Mapping[str, Any], prefix: str = "", depth: int = 1) -> Iterator[tuple[str, Any]]:
    """Names and values of a row; those of objects in it with the names above, as config/lr."""
    for name, value in row.items():
        if isinstance(value, dict) and depth < DEEPEST:
            yield from _flat(value, f"{prefix}{name}/", depth + 1)
        else:
            yield f"{prefix}{name}", value
