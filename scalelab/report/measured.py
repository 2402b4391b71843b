"""What one measurement of `scalelab eval` is, to be kept, printed and sent to MLflow."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Measured:
    """One measurement."""

    kind: str
    """perplexity, task, side_by_side, contamination, pairwise, ranking, prediction, aggregate."""
    name: str
    model: str | None
    """Of which model; None: of several."""
    values: Mapping[str, int | float | None]
    """By name, for tables and MLflow."""
    text: str
    """In words, each number with what it is."""
    chance: float | None = None
    """Of a choice task."""
