"""What a benchmark is: named rows of values, each with a unit and a kind, within a time limit.

A row is measured, absent or failed:

    measured   its values were measured here
    absent     the device cannot do it, or there was no time: a reason, and no value at all
    failed     it was measured and is wrong: a loss beyond its tolerance, an MFU above 1

A benchmark yields a row as soon as it has it, so that a time limit, an interruption or a crash of the
device costs the rows that are not there yet, and none that is.

Not here: the order and the time limits (runner.py), how rows are shown (report/bench).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from scalelab.units import NUMBER_KINDS, NumberKind

if TYPE_CHECKING:
    from scalelab.bench.workbench import Workbench

RowStatus = Literal["measured", "absent", "failed"]
ROW_STATUSES: tuple[str, ...] = ("measured", "absent", "failed")
Unit = Literal[
    "parameters",
    "tokens",
    "tokens/s",
    "FLOP/s",
    "bytes",
    "bytes/s",
    "seconds",
    "share",
    "ratio",
    "nats/token",
    "runs",
    "text",
]
"""Unit of a column. A share lies in 0 to 1, a ratio is a factor."""


@dataclass(frozen=True)
class BenchColumn:
    """One column of a benchmark's table."""

    key: str
    """Name in the JSON record."""
    title: str
    """Heading on the terminal; short, since eight of them share 80 columns."""
    unit: Unit
    kind: NumberKind = "measured"
    is_optional: bool = False
    """Whether a narrow terminal may leave it out."""

    def __post_init__(self) -> None:
        if self.kind not in NUMBER_KINDS:
            raise ValueError(f"kind {self.kind!r} is not one of {', '.join(NUMBER_KINDS)}")


@dataclass(frozen=True)
class BenchRow:
    """One row of a benchmark."""

    name: str
    status: RowStatus
    values: Mapping[str, float | str | None] = field(default_factory=dict)
    """Value by key of its column; None, or no key, for an unknown one. Empty in an absent row."""
    reason: str = ""
    """Why the row is absent or failed, in one line; empty where it is measured."""

    def __post_init__(self) -> None:
        if self.status not in ROW_STATUSES:
            raise ValueError(f"status {self.status!r} is not one of {', '.join(ROW_STATUSES)}")
        if (self.status == "measured") == bool(self.reason.strip()):
            raise ValueError(f"a row that is {self.status} {'has' if self.reason else 'lacks'} a reason")
        if self.status == "absent" and self.values:
            raise ValueError(f"the row {self.name} is absent and has values")
        for key, value in self.values.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{self.name}: {key} is {value}")

    def to_json(self) -> dict[str, Any]:
        """The row as JSON types."""
        return {
            "name": self.name,
            "status": self.status,
            "reason": self.reason or None,
            "values": dict(self.values),
        }


def absent(name: str, reason: str) -> BenchRow:
    """Return a row without values, and the reason."""
    return BenchRow(name, "absent", {}, " ".join(reason.split()))


def failed(name: str, reason: str, values: Mapping[str, float | str | None] | None = None) -> BenchRow:
    """Return a row that was measured and is wrong."""
    return BenchRow(name, "failed", values or {}, " ".join(reason.split()))


class Benchmark(ABC):
    """One benchmark. The base of all members of BENCHMARKS; a member is created without arguments."""

    title: ClassVar[str]
    """What is measured, as a heading."""
    seconds: ClassVar[float]
    """Time limit at the default length of the command, seconds; shorter commands shorten all alike."""
    columns: ClassVar[tuple[BenchColumn, ...]]
    """Columns of its rows, the name of the row left out."""
    note: ClassVar[str] = ""
    """How to read the table, in whole sentences."""

    @abstractmethod
    def rows(self, bench: "Workbench", ends: float) -> Iterator[BenchRow]:
        """Yield the rows, each as soon as it is known.

        Args:
            bench: The device, and the models that suit it.
            ends: Time limit on the clock of time.monotonic, seconds. Nothing new is begun after it, and
                what would take longer is an absent row.
        """
