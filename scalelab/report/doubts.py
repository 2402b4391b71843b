"""What speaks against the answer, as plain numbers: misses, hold-outs, choices, conventions.

Each function takes a Study and returns what one figure shows, or None where the study has
no such thing. Errors are shares of the loss; other units as in units.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scalelab.laws.base import LawFit
from scalelab.laws.conventions import Row
from scalelab.laws.holdout import TOLERANCE, HoldOut
from scalelab.laws.interval import Interval
from scalelab.laws.observations import Array
from scalelab.laws.structural import Member
from scalelab.laws.study import Study
from scalelab.report.numbers import MOST, thinned

STANDS_OUT = 5.0  # times the robust spread of a law's misses
BAND = 0.01  # of the loss; a run beyond it that stands out is named
NAMED = 3  # runs of one law


@dataclass(frozen=True, eq=False)
class Misses:
    """How far one law is from the runs that it was fitted to."""

    law: str
    n_params: Array
    n_tokens: Array
    flops: Array
    miss: Array
    """Predicted over measured, less one."""
    worst: Mapping[int, str]
    """Rows that stand out, the worst first, and their run ids."""
    typical: float
    """Median absolute miss of all runs, drawn or not."""


@dataclass(frozen=True, eq=False)
class Residuals:
    """The misses of every surface."""

    kind: str
    order: tuple[str, ...]
    """All laws that were fitted."""
    laws: tuple[Misses, ...]
    hidden: int
    """Runs beyond those that are drawn."""


@dataclass(frozen=True, eq=False)
class Tested:
    """The hold-outs of one law."""

    law: str
    fold: Array
    error: Array
    growth: float
    """c of c ln k."""
    trusted: float


@dataclass(frozen=True, eq=False)
class Tests:
    """The hold-outs of all laws, and how far the target is."""

    kind: str
    order: tuple[str, ...]
    """All laws that were fitted."""
    speaker: str
    laws: tuple[Tested, ...]
    refused: Mapping[str, str]
    """Laws that could not be asked at the last origin, and why."""
    tolerance: float
    reach: float
    """Of the forecast: its compute over the largest in evidence."""


@dataclass(frozen=True, eq=False)
class Choice:
    """Everything that could have been fitted, and what it says of the target."""

    kind: str
    level: float
    order: tuple[str, ...]
    """All laws that were fitted."""
    flops: float
    speaker: str
    groups: Mapping[str, tuple[Member, ...]]
    """By law, in the order of the study."""
    statistical: Mapping[str, Interval]
    extrapolated: bool


@dataclass(frozen=True, eq=False)
class Conventions:
    """The exponent a by convention and law."""

    kind: str
    level: float
    order: tuple[str, ...]
    """All laws that were fitted."""
    rows: tuple[Row, ...]


def residuals(study: Study) -> Residuals | None:
    """The misses of every law that expects a loss of a run; None without such a law."""
    every = ((name, fit, fit.expected(fit.runs)) for name, fit in study.fits.items())
    known = [(name, fit, loss) for name, fit, loss in every if loss is not None]
    if not known:
        return None
    most = max(MOST // len(known), 200)
    found = tuple(_misses(name, fit, loss, most) for name, fit, loss in known)
    hidden = max(len(study.fits[m.law].runs) - len(m.miss) for m in found)
    return Residuals(study.kind, tuple(study.fits), found, hidden)


def _misses(name: str, fit: LawFit, loss: Array, most: int) -> Misses:
    runs, miss = fit.runs, loss / fit.runs.L - 1
    size = np.abs(miss)
    typical = float(np.median(size))
    far = np.flatnonzero(size > max(STANDS_OUT * 1.4826 * typical, BAND))
    far = far[np.argsort(-size[far], kind="stable")][:NAMED]
    drawn = thinned(len(runs), far, most)
    worst = {int(np.searchsorted(drawn, row)): str(runs.run[row]) for row in far}
    columns = (column[drawn] for column in (runs.N, runs.D, runs.C, miss))
    return Misses(name, *columns, worst, typical)


def tests(study: Study) -> Tests | None:
    """Every hold-out by law; None where nothing could be held out."""
    found = study.holdout
    if not isinstance(found, HoldOut):
        return None
    laws = dict.fromkeys(t.law for t in found.tests)
    return Tests(
        study.kind,
        tuple(study.fits),
        study.forecast.law,
        tuple(_tested(found, law) for law in laws),
        found.refused,
        TOLERANCE,
        study.forecast.reach,
    )


def _tested(found: HoldOut, law: str) -> Tested:
    mine = [t for t in found.tests if t.law == law]
    return Tested(
        law,
        np.array([t.fold for t in mine]),
        np.array([t.error for t in mine]),
        found.growth(law),
        found.trusted_fold(law),
    )


def choice(study: Study) -> Choice:
    """The members of the forecast by law."""
    f = study.forecast
    groups = {
        law: tuple(m for m in f.members if m.name == law or m.name.startswith(f"{law}, "))
        for law in study.fits
    }
    return Choice(
        study.kind,
        study.level,
        tuple(study.fits),
        f.flops,
        f.law,
        {law: mine for law, mine in groups.items() if mine},
        f.statistical,
        extrapolated=f.reach > 1,
    )


def conventions(study: Study, rows: Sequence[Row]) -> Conventions | None:
    """The rows, where there are any with an exponent."""
    if all(row.a is None for row in rows):
        return None
    return Conventions(study.kind, study.level, tuple(study.fits), tuple(rows))
