"""One finding of the quality control."""

from dataclasses import dataclass
from typing import Any

from scalelab.laws.observations import Array, Observations


@dataclass(frozen=True)
class QualityFinding:
    """One thing about the evidence that a reader must know."""

    code: str
    runs: tuple[str, ...]
    """Ids of the runs that it is about."""
    reason: str
    excluded: bool = False
    """Whether the runs were left out."""
    grave: bool = False
    """Whether it counts against the forecast; what a law says itself does not count twice."""
    disqualifying: bool = False
    """Whether no forecast from these runs can be relied on, however well a law fits them."""

    def to_json(self) -> dict[str, Any]:
        """The record as JSON types."""
        return {**self.__dict__, "runs": list(self.runs)}


def run_names(runs: Observations, which: Array) -> tuple[str, ...]:
    """Ids of the runs that a mask or an index selects."""
    return tuple(map(str, runs.run[which]))
