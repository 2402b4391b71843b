"""Rows with their location, and the templates that they fill.

    {"question": "Which is red?", "choices": ["grass", "blood"], "answer": 1}

Rows come from a file of records (data/files/records.py) or from the task itself. Every error gives file and line.

Not here: the required fields (multiple_choice.py, benchmarks.py).
"""

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from scalelab.data.files.records import rows_of
from scalelab.errors import DataError


@dataclass(frozen=True)
class DataRow:
    """One row and its location."""

    fields: Mapping[str, Any]
    place: str

    def get(self, name: str) -> Any:
        """Return a field. Raises DataError if the row does not have it."""
        if name not in self.fields:
            self.refuse(
                f"the row has no {name!r} (it has: {', '.join(self.fields) or 'nothing'})",
                "add the field, or name another one in the task",
            )
        return self.fields[name]

    def text(self, name: str) -> str:
        """Return a text field. Raises DataError if it is something else or empty."""
        value = self.get(name)
        if not isinstance(value, str) or not value.strip():
            self.refuse(f"{name} is {value!r}, not a text", "write a text, in quotes")
        return value

    def fill(self, template: str, known: Mapping[str, str]) -> str:
        """Return the filled template. Raises DataError if the row lacks a field."""
        others = [name for name in places(template) if name not in known]
        return template.format_map({**known, **{name: self.get(name) for name in others}})

    def place_of(self, name: str, value: Any, among: Sequence[Any]) -> int:
        """Return the index of a field's value in `among`. Raises DataError if it is not in it."""
        if value not in list(among):
            self.refuse(
                f"{name} is {value!r}, which is none of {', '.join(map(str, among))}",
                "take the columns of the original files",
            )
        return list(among).index(value)

    def refuse(self, problem: str, fix: str) -> NoReturn:
        """Raise DataError naming the row."""
        raise DataError(problem, where=self.place, fix=fix)


def read_rows(rows: str | Sequence[Mapping[str, Any]], task: str) -> list[DataRow]:
    """Return the rows of a file of records, or given rows.

    Raises:
        DataError: The file cannot be read, a line is not a record, or there are no rows.
    """
    if not isinstance(rows, str):
        found = [DataRow(row, f"task {task}, row {i}") for i, row in enumerate(rows)]
        where = f"task {task}"
    else:
        found = [DataRow(fields, place) for place, fields in rows_of(Path(rows))]
        where = rows
    if not found:
        raise DataError(
            "there are no rows", where=where, fix="write one record per row, such as a JSON object"
        )
    return found


def places(template: str) -> list[str]:
    """Return the names of a template's placeholders."""
    return [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]


def checked_template(template: str) -> str:
    """Return the template. Raises ValueError if it cannot be filled."""
    names = places(template)
    if not names:
        raise ValueError("the template leaves no place for the question, such as {question}")
    if odd := [name for name in names if not name.isidentifier()]:
        raise ValueError(f"the template's {{{odd[0]}}} is no name of a field; write {{{{ and }}}} for braces")
    return template
