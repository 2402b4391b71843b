"""Table of models and their scores on a task, from which predictions are made.

    task, flops, n_params, n_tokens, task_loss, accuracy     every row has them all
    accuracy_se, or n_items                                  where they are known
    recipe                                                   where recipes are compared

task_loss  of the right answer, nats per token or per byte: one unit for the whole table
accuracy   a share, 0 to 1

Missing numbers are errors; nothing is imputed.

Not here: runs and their validation loss (records/run_table.py).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalelab.errors import DataError
from scalelab.registry import did_you_mean

Array = np.ndarray
Rows = Sequence[Mapping[str, Any]]
NUMBERS = ("flops", "n_params", "n_tokens", "task_loss", "accuracy")


@dataclass(frozen=True, eq=False)
class ModelTable:
    """Models of one task, one per entry; arrays of shape (n,)."""

    flops: Array
    n_params: Array
    n_tokens: Array
    task_loss: Array
    """Loss of the correct answer, nats per token or byte: one unit for the whole table."""
    accuracy: Array
    """A share, 0 to 1."""
    noise: Array
    """Standard error of each accuracy; nan if the number of items is not recorded."""

    def __len__(self) -> int:
        return len(self.flops)

    def take(self, which: Array) -> "ModelTable":
        """Return the models that a mask or index selects."""
        return ModelTable(**{name: value[which] for name, value in vars(self).items()})


def read_table(rows: Rows, task: str) -> ModelTable:
    """Return the models of one task.

    Args:
        rows: One mapping a model and task, with `task` and the NUMBERS; `accuracy_se`, or
            `n_items` that the accuracy was measured on, where they are known.
        task: Which rows.

    Raises:
        DataError: There is no such task, a column or a value is missing, or a value cannot be.
    """
    mine = [(i, row) for i, row in enumerate(rows) if word(i, row, "task") == task]
    if not mine:
        names = sorted({row["task"] for row in rows})
        raise DataError(
            f"the table has no task {task!r}{did_you_mean(task, names)}",
            where=f"{len(rows)} rows",
            fix=f"name one of: {', '.join(names) or 'none'}",
        )
    columns = {name: np.array([_number(i, row, name) for i, row in mine]) for name in NUMBERS}
    noise = np.array([_noise(i, row) for i, row in mine])
    return ModelTable(**columns, noise=noise)


def carried_forward(table: ModelTable) -> float:
    """Return the accuracy of the largest models, averaged over models of equal compute."""
    return float(table.accuracy[table.flops == table.flops.max()].mean())


def word(i: int, row: Mapping[str, Any], name: str) -> str:
    """Return a name from a column. Raises DataError if it is not a name."""
    value = row.get(name)
    if not isinstance(value, str) or not value:
        raise DataError(f"{name} is {value!r}, not a name", where=f"row {i} of the table", fix="write a name")
    return value


def _number(i: int, row: Mapping[str, Any], name: str) -> float:
    where = f"row {i} of the table, task {row['task']}"
    if name not in row or row[name] is None or row[name] != row[name]:
        raise DataError(
            f"{name} is missing",
            where=where,
            fix="measure it, or remove the model: missing values are not imputed",
        )
    value = row[name]
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise DataError(f"{name} is {value!r}, not a number", where=where, fix="write a number")
    is_share = name == "accuracy"
    if not (0 <= value <= 1 if is_share else 0 < value < math.inf):
        raise DataError(
            f"{name} is {value:g}",
            where=where,
            fix="write a share from 0 to 1" if is_share else "write a positive number",
        )
    return float(value)


def _noise(i: int, row: Mapping[str, Any]) -> float:
    """Standard error of the accuracy; with n items that of (right + 1) / (n + 2)."""
    if row.get("accuracy_se") is not None:
        return _number(i, row, "accuracy_se")
    if row.get("n_items") is None:
        return float("nan")
    n = _number(i, row, "n_items")
    p = (row["accuracy"] * n + 1) / (n + 2)
    return math.sqrt(p * (1 - p) / n)
