"""Units of the columns of an external table, as its reader states them.

    TableUnits.parse("n_params=M,n_tokens=B,flops=GFLOPs,loss=bits").apply(table, "runs.csv")

Ours are parameters, tokens, FLOPs of the whole training (forward and backward) and nats per token. A
unit is one of the names below or a number that the column is multiplied by. A stated unit is taken at
its word: n_params=1 says that the numbers are right as they stand.

Not here: units that the numbers give away (study/quality/unit_checks.py); units in the names of columns
and in cells.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pandas as pd

from scalelab.errors import ConfigError, DataError
from scalelab.records.cells import CellConversion, numbers
from scalelab.registry import did_you_mean

COUNT_UNITS = {"k": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}
PER_TOKEN = "per-token"
"""FLOPs of one training token: multiplied by n_tokens."""
FLOP_UNITS = {
    "FLOPs": 1.0,
    "MFLOPs": 1e6,
    "GFLOPs": 1e9,
    "TFLOPs": 1e12,
    "PFLOPs": 1e15,
    "EFLOPs": 1e18,
    "ZFLOPs": 1e21,
    "PF-days": 8.64e19,  # 1e15 FLOPs a second for 86,400 seconds
    "MACs": 2.0,  # a multiply-accumulate is two FLOPs
    "forward": 3.0,  # the backward pass costs twice the forward pass
    PER_TOKEN: 1.0,
}
LOSS_UNITS = ("nats", "bits", "perplexity")
UNITS = {
    "n_params": tuple(COUNT_UNITS),
    "n_tokens": tuple(COUNT_UNITS),
    "n_tokens_unique": tuple(COUNT_UNITS),
    "flops": tuple(FLOP_UNITS),
    "flops_planned": tuple(name for name in FLOP_UNITS if name != PER_TOKEN),
    "loss": LOSS_UNITS,
}
"""Named units of each column."""


@dataclass(frozen=True)
class TableUnits:
    """Units of the columns of one table; empty where none is stated."""

    names: Mapping[str, str] = field(default_factory=dict)
    """The unit of each column as it was stated: a name, or a number in text."""

    @classmethod
    def parse(cls, stated: "str | Mapping[str, Any] | None") -> Self:
        """Return the units in a text such as "n_params=M,loss=bits", or in a mapping.

        Raises:
            ConfigError: A column has no unit, or a unit is neither known nor a positive number.
        """
        if not isinstance(stated, Mapping):
            pairs = [pair.partition("=") for pair in (stated or "").split(",") if pair.strip()]
            if bad := [pair for pair in pairs if not (pair[0].strip() and pair[2].strip())]:
                raise ConfigError(
                    f"cannot read the unit {''.join(bad[0])!r}",
                    where="--units",
                    fix="write column=unit, separated by commas: --units n_params=M,n_tokens=B",
                )
            if len({pair[0].strip() for pair in pairs}) < len(pairs):
                raise ConfigError(
                    f"a column has two units in {stated!r}", where="--units", fix="state one unit a column"
                )
            stated = {pair[0]: pair[2] for pair in pairs}
        return cls({_column(name): _unit(_column(name), unit) for name, unit in stated.items()})

    def apply(
        self, table: pd.DataFrame, where: str, conversions: Sequence[CellConversion] = ()
    ) -> pd.DataFrame:
        """Return the table in our units; cells that are no numbers stay as they are.

        Args:
            table: Under our column names.
            where: Name of the table in messages.
            conversions: What was converted in reading it: a unit that a name or a cell gives is not
                applied twice.

        Raises:
            DataError: The table has no such column.
            ConfigError: The column has its unit in its name or cells.
        """
        converted = {each.column: each for each in conversions if "unit" in each.how}
        for column, each in converted.items():
            name = "n_params" if column.startswith("n_params_") else column
            if name in self.names:
                raise ConfigError(
                    f"--units gives {name} in {self.names[name]}, and {column} was converted already, by "
                    f"{each.how}: {each.example} is {each.value:.10g}",
                    where=where,
                    fix=f"leave {name} out of --units",
                )
        changed = {}
        names = dict(sorted(self.names.items(), key=lambda pair: pair[1] == PER_TOKEN))  # after its tokens
        if "n_tokens" in names and "n_tokens_unique" not in converted:
            names.setdefault("n_tokens_unique", names["n_tokens"])
        for name, unit in names.items():
            columns = [
                c for c in table if c == name or (name == "n_params" and str(c).startswith("n_params_"))
            ]
            columns = [c for c in columns if not str(c).endswith("_planned") or c == name]
            if not columns and name in self.names:
                raise DataError(
                    f"the table has no column {name}, whose unit is given as {unit}",
                    where=f"{where}; --units",
                    fix="state units of columns that are there",
                )
            for column in columns:
                values = numbers(table[column])
                ours = _converted(values, name, unit, table.assign(**changed))
                changed[column] = ours.where(values.notna(), table[column])
        return table.assign(**changed)


def _column(name: str) -> str:
    name = name.strip()
    if name not in UNITS:
        raise ConfigError(
            f"{name!r} has no unit to state{did_you_mean(name, UNITS)}",
            where="--units",
            fix=f"name these columns: {', '.join(UNITS)}",
        )
    return name


def _unit(column: str, unit: Any) -> str:
    """The unit by its name in UNITS, or a positive number in text."""
    text = str(unit).strip()
    known = {name.casefold(): name for name in UNITS[column]}
    if text.casefold() in known:
        return known[text.casefold()]
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise ConfigError(
            f"{text[:40]!r} is no unit of {column}{did_you_mean(text, UNITS[column])}",
            where="--units",
            fix=f"use {', '.join(UNITS[column])}, or a positive number to multiply the column by",
        )
    return text


def _converted(values: pd.Series, column: str, unit: str, table: pd.DataFrame) -> pd.Series:
    """A column in our unit."""
    if unit == "nats":
        return values
    if unit == "bits":
        return values * math.log(2)
    if unit == "perplexity":
        return np.log(values.where(values > 0))
    if unit == PER_TOKEN:
        return values * numbers(table["n_tokens"])
    named = FLOP_UNITS if column.startswith("flops") else COUNT_UNITS
    return values * named[unit] if unit in named else values * float(unit)
