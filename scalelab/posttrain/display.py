"""What a stage shows of its result: the line when it is done, its figures and tables on the page.

A stage describes its figures as numbers (Curve, Plot, Table); it does not draw them.

Not here: the page and the drawing (report/posttrain_page.py, report/posttrain_figures.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scalelab.track.stages import StageResult

SINGLE = 20
"""Points of a curve beyond which each is a single batch, and noisy."""


@dataclass(frozen=True)
class Curve:
    """Proxy and gold, further and further from the model that it began as."""

    name: str
    kl: Sequence[float]
    proxy: Sequence[float]
    gold: Sequence[float]
    kl_is: str
    """How KL is known: by formula, or estimated from what was written."""

    @classmethod
    def of(cls, name: str, rows: Sequence[Mapping[str, Any]], kl_is: str) -> "Curve | None":
        """The curve of rows with kl, proxy and gold; None where no row has both measures."""
        rows = [row for row in rows if row["gold"] is not None and row["proxy"] is not None]
        columns = [[row[column] for row in rows] for column in ("kl", "proxy", "gold")]
        return cls(name, *columns, kl_is) if rows else None

    def steadied(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """KL, proxy and gold; where points are single batches, means over tenths of the way."""
        columns = tuple(np.asarray(c, float) for c in (self.kl, self.proxy, self.gold))
        if len(self.kl) <= SINGLE:
            return columns
        return tuple(
            np.array([part.mean() for part in np.array_split(column, 10)]) for column in columns
        )


@dataclass(frozen=True)
class Series:
    """The place of a model in a series of stages that differ in one amount alone."""

    group: str
    """Equal for the stages of one series."""
    amount: int
    what: str
    """What is counted: "examples"."""


@dataclass(frozen=True)
class Table:
    """Rows for the page. Every row has the columns of the first one."""

    title: str
    rows: Sequence[Mapping[str, int | float | str | None]]


@dataclass(frozen=True)
class Line:
    """One line of a plot."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float | None] | None = None
    """Standard error of each point; drawn as a bar of 95%."""


@dataclass(frozen=True)
class Plot:
    """Lines over one axis, for the page."""

    name: str
    """Of its file, behind the name of the stage."""
    title: str
    x_label: str
    """With its unit."""
    y_label: str
    lines: Sequence[Line]
    log_x: bool = False


@dataclass(frozen=True)
class Display:
    """Everything that a stage shows beside its row in the table of stages."""

    headline: Mapping[str, float] = field(default_factory=dict)
    """A few numbers for the line that is printed when the stage is done."""
    curve: Curve | None = None
    series: Series | None = None
    tables: Sequence[Table] = ()
    plots: Sequence[Plot] = ()


def headline(result: StageResult, *names: str) -> dict[str, float]:
    """The named metrics that a result has, without their prefix held_out."""
    return {
        name.removeprefix("held_out."): value
        for name, value in result.metrics.items()
        if name in names and isinstance(value, float)
    }
