"""Rows of JSON with the place where each was written, and templates that they fill.

    {"question": "Which is red?", "choices": ["grass", "blood"], "answer": 1}

One object a line; empty lines are skipped. Every mistake names file and line.
Not here: what a row must hold (choice.py, known.py).
"""

import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from scalelab.errors import DataError


@dataclass(frozen=True)
class Row:
    """One row as it was written, and where."""

    fields: Mapping[str, Any]
    place: str

    def get(self, name: str) -> Any:
        """A field. Raises DataError where the row has none."""
        if name not in self.fields:
            self.refuse(
                f"the row has no {name!r} (it has: {', '.join(self.fields) or 'nothing'})",
                "add the field, or name another one in the task",
            )
        return self.fields[name]

    def text(self, name: str) -> str:
        """A field that is a text. Raises DataError where it is something else, or empty."""
        value = self.get(name)
        if not isinstance(value, str) or not value.strip():
            self.refuse(f"{name} is {value!r}, not a text", "write a text, in quotes")
        return value

    def fill(self, template: str, known: Mapping[str, str]) -> str:
        """The template with its places filled. Raises DataError for a field there is not."""
        others = [name for name in places(template) if name not in known]
        return template.format_map({**known, **{name: self.get(name) for name in others}})

    def place_of(self, name: str, value: Any, among: Sequence[Any]) -> int:
        """Where a field's value stands among others. Raises DataError where it does not."""
        if value not in list(among):
            self.refuse(
                f"{name} is {value!r}, which is none of {', '.join(map(str, among))}",
                "take the columns of the original files",
            )
        return list(among).index(value)

    def refuse(self, problem: str, fix: str) -> NoReturn:
        """Raise DataError naming the row."""
        raise DataError(problem, where=self.place, fix=fix)


def read_rows(rows: str | Sequence[Mapping[str, Any]], task: str) -> list[Row]:
    """Rows of a JSONL file, or rows that are at hand.

    Raises:
        DataError: There is no such file, a line is no JSON object, or there is no row.
    """
    if not isinstance(rows, str):
        found = [Row(row, f"task {task}, row {i}") for i, row in enumerate(rows)]
        where = f"task {task}"
    else:
        found, where = _read_file(Path(rows)), rows
    if not found:
        raise DataError("there are no rows", where=where, fix="write one JSON object a line")
    return found


def _read_file(path: Path) -> list[Row]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise DataError(
            f"cannot read the rows: {reason}", where=str(path), fix="name a JSONL file"
        ) from error
    found = []
    for i, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except ValueError as error:
            raise DataError(
                f"the line is not JSON: {error}", where=f"{path}:{i}", fix="mend the line"
            ) from error
        if not isinstance(fields, dict):
            raise DataError(
                f"the line holds {type(fields).__name__}, not fields with names",
                where=f"{path}:{i}",
                fix='write an object: {"question": ..., "choices": [...], "answer": 0}',
            )
        found.append(Row(fields, f"{path}:{i}"))
    return found


def places(template: str) -> list[str]:
    """Names of what a template leaves open."""
    return [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]


def checked_template(template: str) -> str:
    """The template. Raises ValueError where it could not be filled."""
    names = places(template)
    if not names:
        raise ValueError("the template leaves no place for the question, such as {question}")
    if odd := [name for name in names if not name.isidentifier()]:
        raise ValueError(
            f"the template's {{{odd[0]}}} is no name of a field; write {{{{ and }}}} for braces"
        )
    return template
