"""Laws fitted to the same runs under every way of counting parameters and FLOPs.

Which N and which C are meant moves the exponent more than any noise: counting without
embeddings and without the head raised a from .50 to .73 and more.

Source: Porian et al. 2024, arXiv:2406.19146; Pearce & Song 2024, arXiv:2406.12907.

Not here: turning one count into another by formula (conversion.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scalelab.errors import FitError
from scalelab.laws import LAWS
from scalelab.laws.description import Interval
from scalelab.laws.observations import Observations
from scalelab.laws.uncertainty.bootstrap import trusted


@dataclass(frozen=True, eq=False)
class Convention:
    """One way of counting, and the runs counted so."""

    param_count: str
    flop_count: str
    runs: Observations


@dataclass(frozen=True)
class ConventionRow:
    """One law under one convention."""

    param_count: str
    flop_count: str
    law: str
    a: float | None
    """Exponent of N*; None where the law was refused."""
    b: float | None
    interval: Interval
    """Interval of a, from redrawn evidence."""
    refused: str | None

    def to_json(self) -> dict[str, Any]:
        """The record as JSON types."""
        return dict(self.__dict__)


def compare(
    conventions: Sequence[Convention], laws: Sequence[str], *, replicates: int, level: float, seed: int = 0
) -> tuple[ConventionRow, ...]:
    """Every law that allots compute, under every convention; refusals are rows too.

    Args:
        conventions: Ways of counting, each with its runs.
        laws: Names of laws.
        replicates: Bootstrap replicates; 0 for no intervals.
        level: Level of the intervals, 0 to 1.
        seed: Seed of the bootstrap.
    """
    rows = []
    for law in laws:
        for c in conventions:
            a = b = interval = refused = None
            try:
                fit = LAWS[law]().fit(c.runs)
            except FitError as error:
                refused = error.problem
            else:
                if not fit.exponents:
                    continue
                a, b = fit.exponents["a"], fit.exponents["b"]
                drawn = fit.replicates(replicates, seed) if replicates else None
                interval = None if drawn is None else trusted(drawn, drawn.values["a"], level)
                refused = fit.broken[0] if fit.broken else None
            rows.append(ConventionRow(c.param_count, c.flop_count, law, a, b, interval, refused))
    return tuple(rows)
