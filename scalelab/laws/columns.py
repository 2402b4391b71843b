"""Columns of a table that single laws read beyond N, D, C and L.

    class Mine(Law):
        columns = (Column("learning_rate", "lr", "1 per step", "peak learning rate"),)

A law declares its columns; the runs carry them by name (Observations.columns), and a table that
lacks one is refused with the column's name and the law that reads it.

Not here: columns that every law may use: flops_planned, seed, group, weight (observations.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from scalelab.errors import FitError


class RunColumns(Protocol):
    """What a column reads of runs: named columns, and fields that bound them."""

    columns: Mapping[str, np.ndarray]

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Column:
    """One column, what it means, and which values it may have."""

    name: str
    """As tables call it."""
    symbol: str
    """As the formula calls it."""
    unit: str
    meaning: str
    low: float = 0.0
    """Values lie above it, or with `closed` also on it."""
    high: float = np.inf
    """Values lie below or on it."""
    closed: bool = False
    at_most: str | None = None
    """Field of Observations that it does not exceed in any run, as "D"; None: no such bound."""

    def read(self, runs: RunColumns, law: str) -> np.ndarray:
        """The values of these runs as floats, shape (n,).

        Args:
            runs: That a law is fitted to, or asked for.
            law: Its name, for messages.

        Raises:
            FitError: The runs lack the column, or a value is missing or out of range.
        """
        needs = f"the {law} law needs {self.name} ({self.meaning}, {self.unit})"
        if self.name not in runs.columns:
            raise FitError(
                f"{needs}, and the runs have no such column",
                where=f"the named columns of the runs: {', '.join(runs.columns) or 'none'}",
                fix=f"add the column {self.name}, say what the table calls it "
                f"(--columns {self.name}=NAME), or fit another law",
            )
        fix = f"give {self.name} for every run, or fit another law"
        try:
            values = np.asarray(runs.columns[self.name], float)
        except (TypeError, ValueError) as error:
            where = f"the column {self.name}: {error}"
            raise FitError(f"{needs}, and it is no number", where=where, fix=fix) from error
        if missing := int(np.sum(np.isnan(values))):
            raise FitError(
                f"{needs}, and {missing} of {len(runs)} runs have none",
                where=f"the column {self.name}",
                fix=fix,
            )
        for bad, bound in self._bounds(values, runs):
            if bad.any():
                raise FitError(
                    f"the {law} law needs {self.name} {bound}; {int(bad.sum())} of {len(runs)} "
                    "runs are not so",
                    where=f"the column {self.name}, runs {', '.join(map(str, runs.run[bad][:5]))}",
                    fix="correct these values, or leave the runs out",
                )
        return values

    def _bounds(self, values: np.ndarray, runs: RunColumns) -> list[tuple[np.ndarray, str]]:
        """Runs that break each bound, and the bound in words."""
        low = values < self.low if self.closed else values <= self.low
        side = "of at least" if self.closed else "above"
        found = [(low, f"{side} {self.low:g}"), (values > self.high, f"of at most {self.high:g}")]
        found.append((np.isinf(values), "that is finite"))
        if self.at_most is not None:
            limit = getattr(runs, self.at_most) * (1 + 1e-9)
            found.append((values > limit, f"({self.symbol}) no larger than {self.at_most}"))
        return found


UNIQUE_TOKENS = Column("n_tokens_unique", "U", "tokens", "unique tokens among those seen", at_most="D")
STEPS = Column("n_steps", "S", "steps", "optimizer steps")
LEARNING_RATE = Column("learning_rate", "lr", "per step", "peak learning rate")
BATCH_TOKENS = Column("batch_tokens", "B", "tokens per step", "batch")

RECORDED = (UNIQUE_TOKENS, STEPS, BATCH_TOKENS)
"""Columns that runs carry wherever a table has them, whichever laws are fitted."""

RECIPE = (
    "learning_rate",
    "batch_tokens",
    "batch_size",
    "weight_decay",
    "schedule",
    "warmup",
    "optimizer",
    "dropout",
    "width",
    "depth",
    "seq_len",
)
"""Columns that say how a run was trained: runs that differ in one are no repeats of one another."""
N_EXPERTS = Column("n_experts", "M", "experts", "experts of a feed-forward, 1 for a dense model")
TOTAL_PARAMS = Column(
    "n_params_total", "T", "parameters", "all parameters, also those that a token does not use"
)
