"""Rows of work items on the disk.

    runs/<name>/evals/<id>.json      rows of one work item, sealed

Not here: which work items there are (evaluation_runner.py, jobs.py).
"""

import json
from dataclasses import dataclass
from pathlib import Path

from scalelab.evals.measurement import MeasurementContext, MeasurementRow, WorkItem
from scalelab.files import check_answered, read_regular
from scalelab.sealed import Damaged, Format, typed


@dataclass(frozen=True)
class StoredRows:
    """Rows of one work item as they are stored."""

    id: str
    measured: list[MeasurementRow]


STORED_ROWS = Format("measurement", StoredRows, schema=1)


def is_stored(context: MeasurementContext, item: WorkItem) -> bool:
    """Return whether the rows of a work item are stored, undamaged. Raises NoAnswer."""
    return read_stored_rows(context.folder / f"{item.id}.json")[0] is not None


def rows_of_item(context: MeasurementContext, item: WorkItem) -> list[MeasurementRow]:
    """Return the stored rows of a work item; measure and store them if there are none."""
    path = context.folder / f"{item.id}.json"
    rows, damage = read_stored_rows(path)
    if rows is not None:
        return rows
    if damage is not None:
        context.report(f"{path.name} is measured again: {damage}")
    made = list(item.make())
    STORED_ROWS.write(path, StoredRows(item.id, made))
    for one in made:
        context.report(f"{one.kind} {one.name}" + (f" of {one.model}" if one.model else ""))
    return made


def read_stored_rows(path: Path) -> tuple[list[MeasurementRow] | None, str | None]:
    """Return the rows in a file, or None, and what is wrong with the file if it cannot be used.

    Raises:
        NoAnswer: The file system does not say.
    """
    try:
        text = read_regular(path).decode("utf-8")
        stored = STORED_ROWS.parse(text)
        if stored.id != path.stem:
            return None, f"it holds measurement {stored.id}"
        return stored.measured, None
    except FileNotFoundError:
        return None, None
    except OSError as error:
        check_answered(path, error)
        return None, f"it cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        return None, "it is not UTF-8 text"
    except Damaged as damage:
        old = _unsealed(text)
        return old, None if old is not None else str(damage)


def _unsealed(text: str) -> list[MeasurementRow] | None:
    """Return the rows of an unsealed file, which is a plain list; None if it is something else."""
    try:
        rows = json.loads(text)
        return [typed(MeasurementRow, row) for row in rows] if isinstance(rows, list) and rows else None
    except (ValueError, TypeError, Damaged, RecursionError):
        return None
