"""Rows of a checked table as the observations that laws are fitted to.

Not here: which rows may be used (records/evidence.py), the file (records/external_table.py).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from scalelab.laws import LAWS
from scalelab.laws.columns import RECIPE, RECORDED
from scalelab.laws.observations import Observations

SHORTHAND = 1e-6  # recorded FLOPs this close to 6 N D in every run are 6 N D
WRITTEN = (3, 4, 5, 6)  # significant digits to which a table may have rounded them


def columns_read(laws: Sequence[str]) -> tuple[str, ...]:
    """The columns that runs carry by name: those always recorded, then those the laws read."""
    return tuple(dict.fromkeys((*(column.name for column in RECORDED), *_own_columns(laws))))


def count_of_flops(table: Any) -> str:
    """Which count of FLOPs a table has: "exact" as recorded, or "6ND" where that, rounded or not, was
    recorded, or nothing.

    Args:
        table: With its numbers checked.
    """
    if "flops" not in table:
        return "6ND"
    recorded = table["flops"].to_numpy(float)
    shorthand = 6 * table["n_params"].to_numpy(float) * table["n_tokens"].to_numpy(float)
    rounded = [np.array([float(f"{x:.{digits - 1}e}") for x in shorthand]) for digits in WRITTEN]
    is_6nd = any(np.allclose(recorded, each, rtol=SHORTHAND, atol=0) for each in (shorthand, *rounded))
    return "6ND" if is_6nd else "exact"


def _own_columns(laws: Sequence[str]) -> list[str]:
    """The columns that these laws read."""
    return [column.name for law in laws for column in LAWS[law].columns]


def observations(table: Any, flop_count: str, laws: Sequence[str]) -> Observations:
    """The rows of a table as laws read them.

    Args:
        table: With its numbers checked.
        flop_count: C counted "exact", or as 6 N D.
        laws: That will be fitted; the columns that they read come along, where there are any.
    """

    def column(name: str) -> np.ndarray | None:
        return table[name].to_numpy() if name in table else None

    own = _own_columns(laws)
    return Observations.of(
        column("n_params"),
        column("n_tokens"),
        column("loss"),
        run=column("run"),
        C=column("flops") if flop_count == "exact" else None,
        flops_planned=column("flops_planned"),
        seed=column("seed"),
        group=column("group"),
        weight=column("weight"),
        columns={name: column(name) for name in columns_read(laws) if name in table},
        recipe={name: _setting(table[name]) for name in RECIPE if name in table and name not in own},
    )


def _setting(column: Any) -> np.ndarray:
    """A setting of the recipe as numbers where all are, else as words; NaN or "" where unknown."""
    unknown = column.isna().to_numpy(bool)
    values = column.to_numpy(object)
    try:
        return np.where(unknown, np.nan, np.where(unknown, 0.0, values).astype(float))
    except (TypeError, ValueError, OverflowError):
        return np.array(["" if is_unknown else str(v) for v, is_unknown in zip(values, unknown, strict=True)])
