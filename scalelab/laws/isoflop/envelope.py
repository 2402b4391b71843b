"""The envelope of training curves: at every C the run that has got furthest.

    L_min(C) = min over curves of L_k(C),  N(C), D(C) those of the curve that is lowest there
    N*(C) = N0 (C/C0)^a,  D*(C) = D0 (C/C0)^b,  L*(C) as in trend.py

A curve is all rows of one `group`, one size with C growing. Between its rows ln L and ln D are
interpolated in ln C (monotone cubics; lines between two rows); beyond them it says nothing.
The envelope is read at 1,500 values of C, evenly spaced in ln C. A point is dropped where one
curve alone has got so far, and up to the last C at which the smallest size is best, and from
the first at which the largest is: the true best may lie beyond. Dropping only the points that
an end of the sizes wins would keep what noise pushed inward, and bend N*(C).

A loss read before the end of a curve is that of a schedule cut short, and too high unless the
rate was constant; Hoffmann et al. matched four schedules per size for that reason.

Source: Hoffmann et al. 2022, Approach 1, section 3.1, arXiv:2203.15556; monotone interpolation,
Fritsch & Butland 1984, doi:10.1137/0905021.

Not here: equal budgets by design (isoflop/law.py).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from scalelab.errors import FitError
from scalelab.laws.base import Law, LawFit, Optimum, Replicates
from scalelab.laws.isoflop.trend import FloorLaw, PowerLaw, Trends
from scalelab.laws.observations import Array, Observations
from scalelab.units import si

POINTS = 1500  # Hoffmann et al. 2022, section 3.1
THIN = 25  # every so many points carry L*: it is smooth, unlike the steps of N*
LEAST_SHARE = 0.02  # of the points; with fewer left the envelope is an accident
CHUNK = 200  # replicates at a time, for the size of the arrays


@dataclass(frozen=True, eq=False)
class TrainingCurve:
    """One training curve."""

    group: str
    N: float
    C: Array
    D: Array
    L: Array

    def at(self, ln_C: Array) -> tuple[Array, Array]:
        """Loss and tokens at these ln C; infinite and NaN where it has no rows on both sides."""
        from scipy.interpolate import PchipInterpolator  # takes .25 s to import, and few fits ask for it

        x = np.log(self.C)
        covered = (ln_C >= x[0]) & (ln_C <= x[-1])
        L, D = np.full(ln_C.shape, np.inf), np.full(ln_C.shape, np.nan)
        for into, values in ((L, self.L), (D, self.D)):
            into[covered] = np.exp(PchipInterpolator(x, np.log(values))(ln_C[covered]))
        return L, D


@dataclass(frozen=True)
class Envelope(Law):
    """Power laws through the lower envelope of training curves."""

    formula = "N* = N0 (C/C0)^a, D* = D0 (C/C0)^b on the lowest of all curves L_k(C)"
    source = "Hoffmann et al. 2022, Approach 1, arXiv:2203.15556"

    def fit(self, runs: Observations) -> "EnvelopeFit":
        curves = tuple(_curves(runs))
        if not curves:
            raise FitError(
                "no training curve: every group has one row",
                where="the column group",
                fix="give every row of one training curve the same group, one row per "
                "measurement with its flops, n_tokens and loss; or use --law isoflop",
            )
        sizes = np.unique([c.N for c in curves])
        if len(sizes) < 3:
            raise FitError(
                f"curves of {len(sizes)} sizes: the best of them is always the smallest or the largest",
                where=f"{len(curves)} curves, sizes {', '.join(map(si, sizes))}",
                fix="train at least three sizes, better seven, and record their curves",
            )
        ends = np.log([min(c.C[0] for c in curves), max(c.C[-1] for c in curves)])
        ln_C = np.linspace(*ends, POINTS)
        L, D = (np.stack(part) for part in zip(*(c.at(ln_C) for c in curves), strict=True))
        fit = EnvelopeFit(self, runs, curves, ln_C, L, D)
        seen, reach = fit.counts["kept"], fit.span
        if seen < LEAST_SHARE * POINTS or len(fit.best_sizes) < 2 or reach < 2:
            raise FitError(
                f"{seen} of {POINTS} points of the envelope are usable, over {reach:.3g}x of "
                "compute: no trend can be seen",
                where=f"{fit.counts['alone']} points have one curve, at {fit.counts['edge']} the "
                "smallest or the largest size is best",
                fix="add curves of sizes between and beyond, each long enough to be overtaken",
            )
        return fit


@dataclass(frozen=True, eq=False)
class EnvelopeFit(LawFit):
    """The envelope and the trends through it."""

    law: Envelope
    runs: Observations
    curves: tuple[TrainingCurve, ...]
    grid: Array
    """ln C of the points."""
    loss: Array
    """Loss of every curve at every point, (curves, POINTS); infinite where it has none."""
    tokens: Array

    @cached_property
    def _best(self) -> tuple[Array, Array]:
        """Which curve is lowest, and which points count, both (1, POINTS)."""
        return self._lowest(np.ones((1, len(self.curves)), bool))

    @cached_property
    def counts(self) -> dict[str, int]:
        """Points kept, dropped because one curve stood alone, or near an end of the sizes."""
        covered = np.isfinite(self.loss).sum(axis=0)
        kept, alone = int(self._best[1].sum()), int(np.sum(covered == 1))
        nothing = int(np.sum(covered == 0))
        return {"kept": kept, "alone": alone, "edge": POINTS - kept - alone - nothing}

    @property
    def span(self) -> float:
        """Largest over smallest C of the points that count."""
        kept = self.grid[self._best[1][0]]
        return float(np.exp(np.ptp(kept))) if kept.size else 1.0

    @property
    def best_sizes(self) -> Array:
        """Sizes that are best somewhere."""
        which, good = self._best
        return np.unique(self._sizes[which[good]])

    @cached_property
    def trends(self) -> Trends:
        """The power laws through the envelope, as one replicate."""
        return self._trends(*self._best, None, None)

    @property
    def params(self) -> Mapping[str, float]:
        return {k: float(v[0]) for k, v in self.trends.values.items()}

    @property
    def exponents(self) -> Mapping[str, float]:
        return {"a": self.params["a"], "b": self.params["b"]}

    broken = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        found = [
            "rows before the end of a curve are losses before the cooldown: too high, and the "
            "envelope biased, unless the learning rate was constant"
        ]
        counts = self.counts
        found += [
            f"{counts[why]} of {POINTS} points of the envelope dropped: {words}"
            for why, words in (
                ("alone", "one curve alone has got so far"),
                ("edge", "the smallest or the largest size is best there or beyond"),
            )
            if counts[why]
        ]
        if len(self.best_sizes) < 4:
            found.append(f"the envelope steps through {len(self.best_sizes)} sizes only")
        single = len(self.runs) - sum(len(c.C) for c in self.curves)
        if single:
            found.append(f"{single} runs are no part of any curve and were not used")
        return tuple(found)

    @property
    def evidence_end(self) -> float:
        return float(np.exp(self.grid[self._best[1][0]][-1]))

    def optimum(self, C: Array | float) -> Optimum:
        return self.trends.optimum(np.asarray(C, float))

    def frontiers(self, C: float) -> dict[str, float]:
        return {self.trends.form: float(self.optimum(C).L[0])}

    def replicates(self, count: int, seed: int) -> Replicates:
        """Curves drawn with replacement, whole; a curve drawn twice counts as once."""
        k, parts, failed = len(self.curves), [], 0
        for first in range(0, count, CHUNK):
            last = min(first + CHUNK, count)
            present = np.zeros((last - first, k), bool)
            for row in range(first, last):
                drawn = np.random.default_rng((seed, row)).integers(k, size=k)
                present[row - first, drawn] = True
            which, good = self._lowest(present)
            best = self._sizes[which]
            steps = np.where(good, best, 0).max(axis=1) > np.where(good, best, np.inf).min(axis=1)
            enough = steps & (good.sum(axis=1) >= LEAST_SHARE * POINTS)
            enough &= good[:, ::THIN].sum(axis=1) >= 3
            failed += int(np.sum(~enough))
            if enough.any():
                C0, form = self.trends.N.C0, self.trends.form
                parts.append(self._trends(which[enough], good[enough], form, C0))
        keys = self.trends.values
        empty = [np.empty(0)]
        values = {k: np.concatenate([p.values[k] for p in parts] or empty) for k in keys}
        return Replicates(
            asked=count,
            failed=failed,
            unit="training curve",
            values=values,
            optimum=lambda C: _optima(parts, C),
            notes=self._notes(),
        )

    def _notes(self) -> tuple[str, ...]:
        if len(np.unique(self._sizes)) < len(self.curves):
            return ()
        return (
            "one curve per size: a replicate is the envelope of fewer sizes, so the intervals "
            "hold the coarseness of the sizes and lean to smaller a",
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "formula": self.law.formula,
            "source": self.law.source,
            "params": dict(self.params),
            "exponents": dict(self.exponents),
            "loss_form": self.trends.form,
            "n_curves": len(self.curves),
            "points": dict(self.counts),
            "flops_used": [float(np.exp(v)) for v in self.grid[self._best[1][0]][[0, -1]]],
            "warnings": list(self.warnings),
        }

    @cached_property
    def _sizes(self) -> Array:
        return np.array([c.N for c in self.curves])

    def _lowest(self, present: Array) -> tuple[Array, Array]:
        """Return which of the curves present (r, k) is lowest, and whether the point counts."""
        order = np.argsort(self.loss, axis=0)  # lowest curve first, at every point
        rank = np.argmax(present[:, order], axis=1)
        which = np.take_along_axis(order[None], rank[:, None], axis=1)[:, 0]
        covering = present.astype(np.float32) @ np.isfinite(self.loss).astype(np.float32)
        sizes = np.where(present, self._sizes, np.nan)
        low, high = np.nanmin(sizes, axis=1)[:, None], np.nanmax(sizes, axis=1)[:, None]
        best = np.where(covering > 0, self._sizes[which], np.nan)
        below = np.maximum.accumulate((best == low)[:, ::-1], axis=1)[:, ::-1]
        above = np.maximum.accumulate(best == high, axis=1)
        return which, (covering >= 2) & ~below & ~above

    def _trends(self, which: Array, good: Array, form: str | None, C0: float | None) -> Trends:
        at = np.arange(POINTS)
        C, N, D = np.exp(self.grid), self._sizes[which], self.tokens[which, at]
        N, D = np.where(good, N, np.nan), np.where(good, D, np.nan)
        L = np.where(good, self.loss[which, at], np.nan)[:, ::THIN]
        if C0 is None:
            C0 = float(np.exp(self.grid[good[0]].mean()))
        lines = PowerLaw.of(C, N, C0), PowerLaw.of(C, D, C0), PowerLaw.of(C[::THIN], L, C0)
        floor = FloorLaw.of(C[::THIN], L, C0)
        if form is None:
            form = "floor" if floor.is_floor[0] else "power"
        return Trends(*lines, floor, form)


def _curves(runs: Observations) -> Iterator[TrainingCurve]:
    """Groups of two rows and more, each ascending in compute."""
    for group in np.unique(runs.group):
        rows = np.flatnonzero(runs.group == group)
        if len(rows) < 2:
            continue
        rows = rows[np.argsort(runs.C[rows], kind="stable")]
        N, C, D, L = (getattr(runs, k)[rows] for k in "NCDL")
        if np.ptp(N) > 0:
            raise FitError(
                f"group {group} holds runs of {len(np.unique(N))} sizes: no training curve",
                where=f"rows {', '.join(map(str, runs.run[rows][:5]))}",
                fix="give every training curve a group of its own",
            )
        if np.any(np.diff(C) <= 0) or np.any(np.diff(D) <= 0):
            raise FitError(
                f"group {group} has two losses at the same FLOPs or tokens",
                where=f"rows {', '.join(map(str, runs.run[rows][:5]))}",
                fix="keep one row per measurement, and one group per seed",
            )
        yield TrainingCurve(str(group), float(N[0]), C, D, L)


def _optima(parts: list[Trends], C: float) -> Optimum:
    """The optimum at C of all replicates, chunk after chunk."""
    found = [part.optimum(np.full(part.N.slope.shape, float(C))) for part in parts]
    return Optimum(*(np.concatenate([getattr(o, k) for o in found] or [np.empty(0)]) for k in "CNDL"))
