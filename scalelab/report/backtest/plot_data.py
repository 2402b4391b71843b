"""The numbers of the figures of a backtest: error against reach, and nominal against actual coverage."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from scalelab.backtest.board import LEFT_OUT, Board
from scalelab.backtest.scores import ErrorTable, by_group, exact_range
from scalelab.laws.observations import Array

EDGES = (1.0, 3.0, 7.0, 15.0, 40.0, 150.0)
"""Reaches between which errors are pooled."""
SHOWN = 8
"""Methods that a figure shows: the best by their error at the nearest reach."""


@dataclass(frozen=True, eq=False)
class ReachErrors:
    """Error of one method by reach."""

    name: str
    reach: Array
    """Geometric mean of each pool."""
    error: Array
    """Balanced mean of |ln error|."""


@dataclass(frozen=True, eq=False)
class ErrorsByReach:
    """Errors of all methods by reach."""

    methods: tuple[ReachErrors, ...]
    order: tuple[str, ...]
    """Names of all methods of both figures, by which each has one colour and marker."""
    kind: str


@dataclass(frozen=True, eq=False)
class LevelCoverage:
    """Actual coverage of one method by nominal level."""

    name: str
    left_out: bool
    """Whether its constants were made without the family of each case."""
    level: Array
    covered: Array

    @property
    def label(self) -> str:
        """Its name, with what sets it apart from the same method with constants as shipped."""
        return f"{self.name} ({LEFT_OUT})" if self.left_out else self.name


@dataclass(frozen=True, eq=False)
class CoverageByLevel:
    """Nominal against actual coverage of all methods up to a reach of 150."""

    methods: tuple[LevelCoverage, ...]
    order: tuple[str, ...]
    """As in ErrorsByReach."""
    exact_low: Array
    exact_high: Array
    """Range of the actual coverage at `level`, were intervals exact and cases independent."""
    level: Array
    kind: str


def errors_by_reach(board: Board) -> ErrorsByReach | None:
    """Return the errors against reach; None where no method answered."""
    found = _errors(board)[:SHOWN]
    return ErrorsByReach(tuple(found), _order(board), _kind(board)) if found else None


def _errors(board: Board) -> list[ReachErrors]:
    """Errors against reach of every method that answered, the best at the nearest reach first."""
    found = []
    for (name, constants), errors in board.errors.items():
        pools = [rows for low, high in pairwise(EDGES) if len(rows := errors.within(low, high))]
        if constants == LEFT_OUT or not pools:
            continue
        found.append(
            ReachErrors(
                name,
                np.array([np.exp(np.mean(np.log(rows.reach))) for rows in pools]),
                np.array([_balanced(np.abs(rows.error), rows) for rows in pools]),
            )
        )
    return sorted(found, key=lambda each: each.error[0])


def _order(board: Board) -> tuple[str, ...]:
    """Names of all methods: those whose errors are shown first, so that these have colours of their own."""
    return tuple(
        dict.fromkeys([*(each.name for each in _errors(board)), *(name for name, _ in board.errors)])
    )


def coverage_by_level(board: Board) -> CoverageByLevel | None:
    """Return nominal against actual coverage; None where no method has intervals."""
    found, cases, levels = [], 0, ()
    for (name, constants), errors in board.errors.items():
        rows = errors.within(0.0, EDGES[-1])
        if not len(rows) or not np.isfinite(rows.below).any():
            continue
        covered = []
        for k in range(len(rows.levels)):
            known = rows.take(np.isfinite(rows.below[k]))
            covered.append(_balanced(((known.below[k] >= 0) & (known.above[k] >= 0)).astype(float), known))
        found.append(LevelCoverage(name, constants == LEFT_OUT, np.array(rows.levels), np.array(covered)))
        cases, levels = max(cases, len(np.unique(rows.case))), rows.levels
    if not found:
        return None
    ends = np.array([exact_range(level, cases) for level in levels])
    return CoverageByLevel(
        tuple(found[:SHOWN]), _order(board), ends[:, 0], ends[:, 1], np.array(levels), _kind(board)
    )


def _balanced(values: Array, rows: ErrorTable) -> float:
    return float(np.mean(list(by_group(values, rows.family, rows.case).values())))


def _kind(board: Board) -> str:
    return " and ".join(sorted({table.kind for table in board.tables.tables}))
