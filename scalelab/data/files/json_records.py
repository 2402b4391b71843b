"""Records of JSON: one object per line, an array of objects, or concatenated objects.

Only one record is in memory at a time. An object with a repeated field is refused, because a parser
would silently keep one of the two values. NaN and Infinity are accepted, as in Python.

Not here: which fields a record needs (records.py).
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scalelab.data.files.plain import BOM, MAX_BYTES, lines, text_chunks, too_large
from scalelab.errors import DataError

_SPACE = " \t\n\r"
_SPACES = re.compile(f"[{_SPACE}]*")
_LONGEST_TOKEN = 16
"""Characters within which a constant or an escape ends. An error that far before the end of what is in memory
stays one, however the text goes on."""
_ONE_A_LINE = "correct or remove the line; JSONL has one object per line"


class _RepeatedField(ValueError):
    """An object has one field twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise _RepeatedField(f"the field {repeated[:60]!r} occurs twice")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def json_line_records(path: Path, field: str | None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line number and object of each line; blank lines are ignored.

    Raises:
        DataError: Naming the line that is not a JSON object.
    """
    del field
    for number, line in lines(path):
        text = line.strip(_SPACE).removeprefix(BOM)  # concatenated files have marks inside
        if not text or text.isspace():
            continue
        where = f"{path}:{number}"
        try:
            value = _DECODER.decode(text)
        except (ValueError, RecursionError) as error:
            raise _not_json(error, where, _ONE_A_LINE) from None
        yield number, _record(value, where, _ONE_A_LINE)


def json_records(path: Path, field: str | None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield first line and object of each record of a .json file.

    Raises:
        DataError: Naming the line where it is not JSON, or where there is something other than an object.
    """
    del field
    fix = "correct the file: it should be an array of objects, or objects one after another"
    text = _JsonText(path)
    in_array = text.next_character() == "["
    if in_array:
        text.skip()
    is_first = True
    while True:
        found = text.next_character()
        if in_array and found == "]":
            text.skip()
            if text.next_character():
                raise DataError(
                    "the array has ended, but the file goes on", where=f"{path}:{text.line}", fix=fix
                )
            return
        if not in_array and not found:
            return
        if in_array and not is_first:
            if found != ",":
                raise DataError(
                    f"not JSON: {'the array does not end' if not found else f'{found!r} in place of a comma'}",
                    where=f"{path}:{text.line}",
                    fix=fix,
                )
            text.skip()
            text.next_character()
        is_first = False
        line = text.line
        yield line, _record(text.value(fix), f"{path}:{line}", fix)


class _JsonText:
    """A JSON file read sequentially, with only as much in memory as one value needs."""

    def __init__(self, path: Path):
        self._path, self._chunks = path, text_chunks(path)
        self._text, self._at, self.line = "", 0, 1

    def next_character(self) -> str:
        """Return the next character other than white space without consuming it; "" at the end."""
        while True:
            self._move(_SPACES.match(self._text, self._at).end())
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def skip(self) -> None:
        """Consume one character."""
        self._move(self._at + 1)

    def value(self, fix: str) -> Any:
        """Consume and return the value that begins here. Raises DataError: it is not JSON."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except _RepeatedField as error:
                raise _not_json(error, f"{self._path}:{self.line}", fix) from None
            except (ValueError, RecursionError) as error:
                if self._may_go_on(error) and self._more():
                    continue
                at = getattr(error, "pos", self._at)
                line = self.line + self._text.count("\n", self._at, at)
                raise _not_json(error, f"{self._path}:{line}", fix) from None
            if end == len(self._text) and not isinstance(value, dict | list | str) and self._more():
                continue  # a number may go on
            self._move(end)
            return value

    def _may_go_on(self, error: Exception) -> bool:
        """Return whether an error may be that of a value of which only the beginning is in memory."""
        if not isinstance(error, json.JSONDecodeError):
            return False
        return error.msg.startswith("Unterminated string") or error.pos >= len(self._text) - _LONGEST_TOKEN

    def _move(self, to: int) -> None:
        self.line += self._text.count("\n", self._at, to)
        self._at = to

    def _more(self) -> bool:
        """At least double what is in memory; False at the end of the file."""
        rest, self._at = self._text[self._at :], 0
        self._text = rest
        if len(rest) > MAX_BYTES:
            raise too_large("the record", f"{self._path}:{self.line}", "divide the record, or leave it out")
        pieces, n = [rest], 0
        for chunk in self._chunks:
            pieces.append(chunk)
            n += len(chunk)
            if n >= len(rest):
                break
        self._text = "".join(pieces)
        return n > 0


def _record(value: Any, where: str, fix: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(
            f"the record is {type(value).__name__}, not an object with fields", where=where, fix=fix
        )
    return value


def _not_json(error: Exception, where: str, fix: str) -> DataError:
    if isinstance(error, RecursionError):
        return DataError("not JSON that can be read: it is nested too deeply", where=where, fix=fix)
    if isinstance(error, _RepeatedField):
        return DataError(str(error), where=where, fix="remove one of the two fields")
    return DataError(f"not JSON: {getattr(error, 'msg', None) or error}", where=where, fix=fix)
