"""Diagnostics of a study as plain numbers: residuals, hold-outs, choice of law, conventions.

Each function takes a Study and returns what one figure shows, or None where the study has
no such thing. Errors are shares of the loss; other units as in units.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scalelab.laws.base import LawFit
from scalelab.laws.description import Interval
from scalelab.laws.observations import Array
from scalelab.laws.uncertainty.model_uncertainty import CandidateFit
from scalelab.report.fit.plot_data import MOST, thinned
from scalelab.study.conventions import ConventionRow
from scalelab.study.holdout import TOLERANCE, HoldOut
from scalelab.study.study import Study

STANDS_OUT = 5.0  # times the robust spread of a law's errors
BAND = 0.01  # of the loss; a run beyond it that stands out is named
NAMED = 3  # runs of one law


@dataclass(frozen=True, eq=False)
class LawResiduals:
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
    """Median absolute error of all runs, drawn or not."""


@dataclass(frozen=True, eq=False)
class Residuals:
    """Residuals of every surface."""

    kind: str
    order: tuple[str, ...]
    """All laws that were fitted."""
    laws: tuple[LawResiduals, ...]
    hidden: int
    """Runs beyond those that are drawn."""


@dataclass(frozen=True, eq=False)
class LawHoldout:
    """The hold-outs of one law."""

    law: str
    fold: Array
    error: Array
    growth: float
    """c of c ln k."""
    trusted: float


@dataclass(frozen=True, eq=False)
class HoldoutSummary:
    """The hold-outs of all laws, and how far the target is."""

    kind: str
    order: tuple[str, ...]
    """All laws that were fitted."""
    primary: str
    laws: tuple[LawHoldout, ...]
    refused: Mapping[str, str]
    """Laws that could not be asked at the last origin, and why."""
    tolerance: float
    reach: float
    """Reach of the forecast: its compute over the largest in evidence."""


@dataclass(frozen=True, eq=False)
class ModelChoice:
    """Everything that could have been fitted, and what it says of the target."""

    kind: str
    level: float
    order: tuple[str, ...]
    """All laws that were fitted."""
    flops: float
    primary: str
    groups: Mapping[str, tuple[CandidateFit, ...]]
    """By law, in the order of the study."""
    statistical: Mapping[str, Interval]
    extrapolated: bool


@dataclass(frozen=True, eq=False)
class ConventionExponents:
    """The exponent a by convention and law."""

    kind: str
    level: float
    order: tuple[str, ...]
    """All laws that were fitted."""
    rows: tuple[ConventionRow, ...]


def residuals(study: Study) -> Residuals | None:
    """Return the residuals of every law that predicts the loss of a run; None without such a law."""
    every = ((name, fit, fit.expected(fit.runs)) for name, fit in study.fits.items())
    known = [(name, fit, loss) for name, fit, loss in every if loss is not None]
    if not known:
        return None
    most = max(MOST // len(known), 200)
    found = tuple(_misses(name, fit, loss, most) for name, fit, loss in known)
    hidden = max(len(study.fits[m.law].runs) - len(m.miss) for m in found)
    return Residuals(study.kind, tuple(study.fits), found, hidden)


def _misses(name: str, fit: LawFit, loss: Array, most: int) -> LawResiduals:
    runs, miss = fit.runs, loss / fit.runs.L - 1
    size = np.abs(miss)
    typical = float(np.median(size))
    far = np.flatnonzero(size > max(STANDS_OUT * 1.4826 * typical, BAND))
    far = far[np.argsort(-size[far], kind="stable")][:NAMED]
    drawn = thinned(len(runs), far, most)
    worst = {int(np.searchsorted(drawn, row)): str(runs.run[row]) for row in far}
    columns = (column[drawn] for column in (runs.N, runs.D, runs.C, miss))
    return LawResiduals(name, *columns, worst, typical)


def tests(study: Study) -> HoldoutSummary | None:
    """Every hold-out by law; None where nothing could be held out."""
    found = study.holdout
    if not isinstance(found, HoldOut):
        return None
    laws = dict.fromkeys(t.law for t in found.tests)
    return HoldoutSummary(
        study.kind,
        tuple(study.fits),
        study.forecast.law,
        tuple(_tested(found, law) for law in laws),
        found.refused,
        TOLERANCE,
        study.forecast.reach,
    )


def _tested(found: HoldOut, law: str) -> LawHoldout:
    mine = [t for t in found.tests if t.law == law]
    return LawHoldout(
        law,
        np.array([t.fold for t in mine]),
        np.array([t.error for t in mine]),
        found.growth(law),
        found.trusted_fold(law),
    )


def choice(study: Study) -> ModelChoice:
    """The members of the forecast by law."""
    f = study.forecast
    groups = {
        law: tuple(m for m in f.members if m.name == law or m.name.startswith(f"{law}, "))
        for law in study.fits
    }
    return ModelChoice(
        study.kind,
        study.level,
        tuple(study.fits),
        f.flops,
        f.law,
        {law: mine for law, mine in groups.items() if mine},
        f.statistical,
        extrapolated=f.reach > 1,
    )


def conventions(study: Study, rows: Sequence[ConventionRow]) -> ConventionExponents | None:
    """The rows, where there are any with an exponent."""
    if all(row.a is None for row in rows):
        return None
    return ConventionExponents(study.kind, study.level, tuple(study.fits), tuple(rows))
