"""What a stage shows of its result: headline numbers, figures and tables, as data.

A stage describes figures and tables (ProxyGoldCurve, StagePlot, StageTable) and renders nothing.

Not here: the report (report/posttrain/document.py) and the drawing (report/posttrain/plots.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scalelab.records.stage_manifest import StageResult

NOISY_FROM = 20
"""Curves with more points than this have one noisy batch per point."""


@dataclass(frozen=True)
class ProxyGoldCurve:
    """Proxy and gold reward against the divergence from the start model."""

    name: str
    """Name of the stage."""
    kl: Sequence[float]
    """KL divergence from the start model, nats."""
    proxy: Sequence[float]
    """Score of the reward model."""
    gold: Sequence[float]
    """Gold score of the conversations."""
    kl_is: str
    """How KL is known: "by formula", or "estimated" from the sampled answers."""

    @classmethod
    def of(cls, name: str, rows: Sequence[Mapping[str, Any]], kl_is: str) -> "ProxyGoldCurve | None":
        """Return the curve of rows with kl, proxy and gold; None if no row has both scores."""
        rows = [row for row in rows if row["gold"] is not None and row["proxy"] is not None]
        columns = [[row[column] for row in rows] for column in ("kl", "proxy", "gold")]
        return cls(name, *columns, kl_is) if rows else None

    def smoothed(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return KL, proxy and gold; for single noisy batches, their means over tenths of the curve."""
        columns = tuple(np.asarray(c, float) for c in (self.kl, self.proxy, self.gold))
        if len(self.kl) <= NOISY_FROM:
            return columns
        return tuple(np.array([part.mean() for part in np.array_split(column, 10)]) for column in columns)


@dataclass(frozen=True)
class SizeSeries:
    """Position of a model in a series of stages that differ in one amount only."""

    group: str
    """Identifier shared by the stages of one series."""
    amount: int
    what: str
    """Unit of the amount, such as "examples"."""


@dataclass(frozen=True)
class StageTable:
    """A table for the page. Every row has the columns of the first one."""

    title: str
    rows: Sequence[Mapping[str, int | float | str | None]]


@dataclass(frozen=True)
class PlotLine:
    """One line of a plot."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float | None] | None = None
    """Standard error of each point; drawn as a 95% interval."""


@dataclass(frozen=True)
class StagePlot:
    """A line plot for the page."""

    name: str
    """Name of its file, after the name of the stage."""
    title: str
    x_label: str
    """Axis label with its unit."""
    y_label: str
    lines: Sequence[PlotLine]
    log_x: bool = False


@dataclass(frozen=True)
class StageDisplay:
    """Everything that a stage shows besides its row in the table of stages."""

    headline: Mapping[str, float] = field(default_factory=dict)
    """A few numbers for the line printed when the stage finishes."""
    curve: ProxyGoldCurve | None = None
    series: SizeSeries | None = None
    tables: Sequence[StageTable] = ()
    plots: Sequence[StagePlot] = ()


def headline(result: StageResult, *names: str) -> dict[str, float]:
    """Return the named metrics of a result that are known, without the prefix held_out."""
    return {
        name.removeprefix("held_out."): value
        for name, value in result.metrics.items()
        if name in names and isinstance(value, int | float)
    }
