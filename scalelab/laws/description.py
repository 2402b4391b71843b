"""A fit described as data: what a study knows of it, and facts that only its law can state.

Not here: texts and tables (report/fit/document.py).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scalelab.units import NumberKind

Interval = list[float] | None
"""Both ends of an interval; None where there is none."""


@dataclass(frozen=True)
class FitContext:
    """What a study knows of one fit that the fit itself does not."""

    name: str
    """Name of the law."""
    level: float
    """Level of every interval, 0 to 1."""
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    """Interval of each constant and exponent; empty where the evidence cannot be redrawn."""
    standard_errors: Mapping[str, float | None] = field(default_factory=dict)
    """Standard error of each constant."""
    correlations: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """Correlation of each pair of constants, on a log scale."""
    profiles: Mapping[str, list[float | None]] = field(default_factory=dict)
    """Intervals by profile likelihood, where they were asked for."""
    minima: Sequence[Mapping[str, Interval]] = ()
    """For each interior minimum of its slices, the interval of each quantity."""


@dataclass(frozen=True)
class Fact:
    """One number or formula that only the law itself can state."""

    label: str
    """Name of the quantity: "N* ~ C^a"."""
    value: str
    """The value with its unit, formatted."""
    kind: NumberKind = "fitted"
    """Where it comes from."""


@dataclass(frozen=True)
class Influence:
    """How far a fit moves without some runs."""

    runs: tuple[str, ...]
    """One run, one group, or all outliers, the largest error first."""
    kind: str
    """run, group or outliers."""
    shifts: dict[str, float]
    """Shift of each exponent and constant: its value without the runs, less its value with them."""
    course: tuple[float, ...]
    """What a is without the first run, the first two, and so on up to NAMED; of outliers only."""
    misses: tuple[float, ...]
    """Error of each run from the final fit, in robust standard deviations; of outliers only."""
    errors: float
    """Shift of a in standard errors of a."""
    telling: bool
    """Whether a reader must know."""
    exact: bool
    """Fitted again; otherwise one Newton step."""

    def to_json(self) -> dict[str, Any]:
        """The record as JSON types; a shift that is not finite is None."""
        return {
            "runs": list(self.runs),
            "kind": self.kind,
            "shifts": {name: x if math.isfinite(x) else None for name, x in self.shifts.items()},
            "course": list(self.course),
            "misses": list(self.misses),
            "standard_errors": self.errors,
            "telling": self.telling,
            "exact": self.exact,
        }
