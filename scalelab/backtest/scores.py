"""How good forecasts were: error, bias, coverage, interval score, width, wasted compute, honesty.

    error          e = ln forecast - ln actual, of the loss of a run or of the best size of a budget
    balanced mean  over what is asked in a case, over the cases of a family, over families
    coverage       share of the actual values inside the interval, and the range in which that share
                   lies in 95% of boards if intervals are exact and cases independent
    interval score ln high - ln low + 2 / (1 - level) * distance outside of it: the lower the better,
                   and least in expectation for the true quantiles
    wasted         share of the compute that a run of the forecast size wastes: it ends where
                   exp(-curvature e^2 / decline) of the compute would have got at the best size
    honest         share of errors of at most 1.5 times the error that the method expected

Errors in percent are 100 times the logarithm. Near and far are apart: an error grows with the reach.

Source: interval score, Gneiting & Raftery 2007, eq. 43, doi:10.1198/016214506000001437.

Not here: constants made without a family (calibration.py), the board (board.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, lgamma, log
from typing import Any

import numpy as np

from scalelab.laws.observations import Array

LOSS_BANDS = ((0.0, 15.0), (15.0, 150.0), (150.0, np.inf))
"""Reach above and up to which errors of the loss are pooled; the last is reported apart."""
SIZE_BANDS = ((0.0, 10.0), (10.0, np.inf))
HONEST = 1.5
"""Times the expected error that an error may be."""
SURE = 0.95
"""Level of the range of a coverage."""
REDRAWN, DRAWN_LEVEL = 400, 0.8
"""Redraws of families and cases for the range of a balanced mean, and its level."""


@dataclass(frozen=True, eq=False)
class ErrorTable:
    """Errors of one method, one row for each run or budget that was asked for."""

    table: Array
    family: Array
    case: Array
    """Number of the case."""
    reach: Array
    error: Array
    """ln forecast - ln actual."""
    levels: tuple[float, ...]
    below: Array
    """ln actual - ln low at each level, shape (k, n); NaN without an interval."""
    above: Array
    """ln high - ln actual, shape (k, n)."""
    expected: Array
    """Expected error as a share; NaN where none was stated."""
    wasted: Array
    """Share of the compute wasted by the forecast size; NaN for losses."""
    trusted: Array
    """1 where the method says that its forecast may be relied on, 0 where not; NaN where it does not say."""

    def __len__(self) -> int:
        return len(self.error)

    def take(self, which: Array) -> "ErrorTable":
        """Return the rows of a mask."""
        return ErrorTable(
            *(getattr(self, name)[which] for name in ("table", "family", "case", "reach", "error")),
            self.levels,
            self.below[:, which],
            self.above[:, which],
            *(getattr(self, name)[which] for name in ("expected", "wasted", "trusted")),
        )

    def within(self, low: float, high: float) -> "ErrorTable":
        """Return the rows whose reach is above `low` and at most `high`."""
        return self.take((self.reach > low) & (self.reach <= high))


@dataclass(frozen=True)
class Coverage:
    """Intervals of one level against what came true."""

    level: float
    n: int
    balanced: float
    """Share inside, balanced over cases and families."""
    share: float
    """Share inside of all, each counted once."""
    exact: tuple[float, float]
    """Range of the share in SURE of boards, were the intervals exact and the cases independent."""
    by_family: Mapping[str, float]
    interval_score: float
    """Balanced mean, in the logarithm."""
    median_width: float
    """Median of ln high - ln low."""
    width_per_error: float | None
    """Median width over median |error|; None where that is 0."""


@dataclass(frozen=True)
class BandScore:
    """Scores of one method in one band of reach."""

    low: float
    high: float
    n: int
    n_cases: int
    error: float
    """Balanced mean of |error|."""
    error_range: tuple[float, float]
    """Its range over redrawn families and cases, at DRAWN_LEVEL."""
    bias: float
    """Balanced mean of the error."""
    median: float
    p90: float
    by_family: Mapping[str, float]
    by_table: Mapping[str, float]
    coverage: tuple[Coverage, ...]
    """At each level; empty without intervals."""
    honest: float | None
    """Share of errors of at most HONEST times the expected; None where none was stated."""
    wasted: float | None
    """Balanced mean of the share of compute wasted; None for losses."""
    trusted: float | None
    """Share of forecasts that the method itself says may be relied on."""
    trusted_error: float | None
    """Mean |error| of those."""


def score_band(errors: ErrorTable, low: float, high: float) -> BandScore | None:
    """Return the scores of the rows of a band; None without any.

    Args:
        errors: All rows of a method.
        low: Reach above which a row belongs to the band.
        high: Reach up to which it does.
    """
    rows = errors.within(low, high)
    if not len(rows):
        return None
    size = np.abs(rows.error)
    stated = np.isfinite(rows.expected)
    judged = rows.trusted == 1
    return BandScore(
        low,
        high,
        len(rows),
        len(np.unique(rows.case)),
        balanced(size, rows),
        redrawn_range(size, rows),
        balanced(rows.error, rows),
        float(np.median(size)),
        float(np.quantile(size, 0.9)),
        by_group(size, rows.family, rows.case),
        by_group(size, rows.table, rows.case),
        tuple(found for k in range(len(rows.levels)) if (found := score_intervals(rows, k)) is not None),
        float(np.mean(np.abs(np.expm1(rows.error)) <= HONEST * rows.expected, where=stated))
        if stated.any()
        else None,
        balanced(rows.wasted, rows) if np.isfinite(rows.wasted).all() else None,
        float(np.mean(judged)) if np.isfinite(rows.trusted).all() else None,
        float(np.mean(size[judged])) if judged.any() else None,
    )


def score_intervals(rows: ErrorTable, k: int) -> Coverage | None:
    """Return the scores of the intervals of level number k; None where no row has one."""
    rows = rows.take(np.isfinite(rows.below[k]) & np.isfinite(rows.above[k]))
    if not len(rows):
        return None
    below, above, level = rows.below[k], rows.above[k], rows.levels[k]
    inside = ((below >= 0) & (above >= 0)).astype(float)
    width = below + above
    outside = np.maximum(np.maximum(-below, -above), 0.0)
    median = float(np.median(np.abs(rows.error)))
    return Coverage(
        level,
        len(rows),
        balanced(inside, rows),
        float(inside.mean()),
        exact_range(level, len(np.unique(rows.case))),
        by_group(inside, rows.family, rows.case),
        balanced(width + 2 / (1 - level) * outside, rows),
        float(np.median(width)),
        float(np.median(width)) / median if median > 0 else None,
    )


def balanced(values: Array, rows: ErrorTable) -> float:
    """Return the mean over what is asked in a case, over the cases of a family, over families."""
    return float(np.mean(list(by_group(values, rows.family, rows.case).values())))


def by_group(values: Array, group: Array, case: Array) -> dict[str, float]:
    """Return the mean over cases of the mean in a case, by group.

    Args:
        values: Shape (n,).
        group: Family or table of each.
        case: Number of the case of each.
    """
    _, first, which = np.unique(case, return_index=True, return_inverse=True)
    means = np.bincount(which, values) / np.bincount(which)
    owner = group[first]
    return {str(name): float(means[owner == name].mean()) for name in np.unique(owner)}


def redrawn_range(values: Array, rows: ErrorTable) -> tuple[float, float]:
    """Return the range of a balanced mean over redrawn families, and redrawn cases in each."""
    _, first, which = np.unique(rows.case, return_index=True, return_inverse=True)
    means = np.bincount(which, values) / np.bincount(which)
    owner = rows.family[first]
    families = [means[owner == name] for name in np.unique(owner)]
    rng = np.random.default_rng(0)
    which = rng.integers(len(families), size=(REDRAWN, len(families)))
    drawn = np.empty(which.shape)
    for f, mine in enumerate(families):
        count = int(np.sum(which == f))
        drawn[which == f] = mine[rng.integers(len(mine), size=(count, len(mine)))].mean(axis=1)
    tail = (1 - DRAWN_LEVEL) / 2
    low, high = np.quantile(drawn.mean(axis=1), [tail, 1 - tail])
    return float(low), float(high)


def exact_range(level: float, n: int) -> tuple[float, float]:
    """Return the range of a share inside among n independent intervals of exactly that level, at SURE."""
    ways = [lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) for k in range(n + 1)]
    chance = np.cumsum([exp(w + k * log(level) + (n - k) * log(1 - level)) for k, w in enumerate(ways)])
    tail = (1 - SURE) / 2
    return int(np.searchsorted(chance, tail)) / n, min(int(np.searchsorted(chance, 1 - tail)), n) / n


@dataclass(frozen=True)
class Comparison:
    """Errors of a method over those of the reference, on what both answered."""

    n: int
    ratio: float
    """Geometric mean over families of the ratio of their mean errors."""
    worst: float
    worst_family: str


def compare_errors(
    mine: Mapping[tuple[int, int], float], others: Mapping[tuple[int, int], float], family: Mapping[int, str]
) -> Comparison | None:
    """Return the errors of one method over those of another, on what both answered.

    Args:
        mine: |error| by case and place in it.
        others: The same of the reference.
        family: Family of each case.
    """
    shared = sorted(set(mine) & set(others))
    if not shared:
        return None
    case = np.array([key[0] for key in shared])
    group = np.array([family[key[0]] for key in shared])
    ratios: dict[str, float] = {}
    own = by_group(np.array([mine[key] for key in shared]), group, case)
    theirs = by_group(np.array([others[key] for key in shared]), group, case)
    for name, error in own.items():
        if theirs[name] > 0:
            ratios[name] = error / theirs[name]
    if not ratios:
        return None
    worst = max(ratios, key=lambda name: ratios[name])
    logs = np.log(np.maximum(list(ratios.values()), 1e-12))
    return Comparison(len(shared), float(np.exp(logs.mean())), ratios[worst], worst)


def to_json(value: Any) -> Any:
    """Return a score as JSON types: an infinite bound or a NaN is None."""
    if hasattr(value, "__dataclass_fields__"):
        return {name: to_json(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {str(key): to_json(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [to_json(inner) for inner in value]
    if isinstance(value, float):
        return float(value) if np.isfinite(value) else None
    return value
