"""How a table was read: its format, which column is which, what was converted, what was not used.

Not here: which rows are evidence and why the others are not (evidence.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class CellConversion:
    """Cells of one column that were read as numbers in one way."""

    column: str
    how: str
    cells: int
    example: str
    value: float
    """What the example was read as."""

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON types."""
        return {
            "column": self.column,
            "how": self.how,
            "cells": self.cells,
            "example": self.example,
            "value": self.value,
        }

    def __str__(self) -> str:
        cells = f"{self.cells:,} cell{'s' if self.cells > 1 else ''}"
        return f"{self.column}: {cells} with {self.how}, such as {self.example!r} = {self.value:.10g}"


@dataclass(frozen=True)
class TableReading:
    """How one table was read."""

    source: str
    """Path of the file, or "the DataFrame"."""
    format: str
    """Format in words: "CSV, separated by semicolons"."""
    rows: int
    """Rows with anything in them."""
    decimal: str | None = None
    """Decimal sign of numbers in text, "." or ","; None where no cell had one."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Name in the table by our name, where the two differ."""
    matched: tuple[str, ...] = ()
    """Our names of columns that were found by their names, and not stated."""
    conversions: tuple[CellConversion, ...] = ()
    recipe: tuple[str, ...] = ()
    """Columns of the recipe, by our names: learning_rate."""
    others: Mapping[str, str] = field(default_factory=dict)
    """Other columns: the name that a column is kept under, by its own name."""
    notes: tuple[str, ...] = ()
    """Further remarks, one sentence each."""

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON types."""
        return {
            "source": self.source,
            "format": self.format,
            "rows": self.rows,
            "decimal": self.decimal,
            "columns": dict(self.columns),
            "matched": list(self.matched),
            "conversions": [each.to_json() for each in self.conversions],
            "recipe": list(self.recipe),
            "others": dict(self.others),
            "notes": list(self.notes),
        }
