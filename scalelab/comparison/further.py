"""The smallest number of further seeds or rungs that would decide, and what they cost.

The difference is taken to be what it is estimated to be now, and the level to be that of this look. Further runs add
their rows to the linearised fit, with errors like those of the present ones; the power of the test at the compute of
the decision is that of Student's noncentral t. To decide, the estimate has to be beyond the noise floor too. The
smallest number whose power reaches POWER is reported.

    seeds   one more run of every size and token count of both recipes, k times
    top     the same at the largest shared compute only
    rungs   the runs of the largest shared compute repeated at STEP, STEP^2, ... times as much compute

Not here: the test itself (verdict.py).
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import gammaincinv, nctdtr, ndtr, ndtri, stdtrit

from scalelab.comparison.efficiency import EfficiencyFit
from scalelab.comparison.redrawing import ErrorModel
from scalelab.laws.observations import Array, Observations

POWER = 0.8
MOST_SEEDS, MOST_RUNGS = 1000, 4
LEAST_STEP = 2.0  # of compute between rungs, where the runs show none
TOP = 1.1  # factor of the largest shared compute within which a run belongs to it
NOTHING = 1e-6  # distance of ln m that is rounding
POINTS = 400  # quantiles of the estimated standard error over which power is averaged
NORMAL = 1e6  # degrees of freedom beyond which Student's distribution is the normal one


@dataclass(frozen=True)
class FurtherRuns:
    """Runs that would decide, were the difference what it is estimated to be."""

    kind: str
    """seeds, top or rungs."""
    count: int
    """Seeds or rungs."""
    runs: int
    flops: float
    """Training compute of all of them, both recipes, FLOPs."""
    power: float
    """Probability that the test then decides."""

    def to_json(self) -> dict[str, Any]:
        """The runs as JSON types."""
        return {
            "kind": self.kind,
            "count": self.count,
            "runs": self.runs,
            "flops": self.flops,
            "power": self.power,
        }


@dataclass(frozen=True, eq=False)
class NoiseFloor:
    """Distance that an estimate has to have besides its test."""

    distance: float
    """Distance of ln m from its limit, above 0."""
    rows: Array
    """Runs whose noise it is, a mask of shape (n,)."""


def power(distance: float, se: float, dof: float, alpha: float, floor: float = 0.0) -> float:
    """Probability that a one-sided test decides at a true distance of ln m from its limit.

    With a floor, that the estimate is beyond it too: the mean over the distribution of the estimated standard error.

    Args:
        distance: Of ln m, above 0.
        se: Standard error of ln m.
        dof: Its degrees of freedom; infinite for a known noise.
        alpha: Level of the test.
        floor: Least estimated distance of ln m that decides.
    """
    if se <= 0:
        return float(distance >= floor)
    if dof > NORMAL:
        return float(ndtr(distance / se - max(-ndtri(alpha), floor / se)))
    if floor > 0:
        estimated = np.sqrt(2 * gammaincinv(dof / 2, (np.arange(POINTS) + 0.5) / POINTS) / dof)
        limit = np.maximum(float(stdtrit(dof, 1 - alpha)) * estimated, floor / se)
        return float(np.mean(ndtr(distance / se - limit)))
    return float(1 - nctdtr(dof, distance / se, float(stdtrit(dof, 1 - alpha))))


def further_runs(
    errors: ErrorModel, z: Array, C: float, distance: float, alpha: float, floor: NoiseFloor | None = None
) -> tuple[FurtherRuns, ...]:
    """Return the smallest further runs of each kind that decide, the cheapest first; empty where none do.

    Args:
        errors: The present fit and its errors.
        z: 1 for runs of the second recipe, shape (n,).
        C: Compute of the decision, FLOPs.
        distance: Of the estimated ln m from the limit of the test; its sign does not count.
        alpha: One-sided level of the test.
        floor: The noise floor of the present runs; None: none is asked.
    """
    plan = _Plan(errors, C, abs(distance), alpha, z, floor)
    if plan.distance < NOTHING:
        return ()
    runs = errors.fit.runs
    shared = _inside(runs, z)
    points = _points(runs, z, shared)
    top = _points(runs, z, shared & (runs.C >= C / TOP))
    found = [
        plan.smallest("seeds", lambda k: [(points, k)], MOST_SEEDS),
        plan.smallest("top", lambda k: [(top, k)], MOST_SEEDS) if _both(top, z) else None,
    ]
    if errors.fit.has_trend and _both(top, z):
        step, seeds = _step(runs, z), _repeats(runs, z, top)
        found.append(
            plan.smallest(
                "rungs", lambda k: [(replace(top, scale=step**j), seeds) for j in range(1, k + 1)], MOST_RUNGS
            )
        )
    return tuple(sorted((each for each in found if each is not None), key=lambda each: each.flops))


def detectable(errors: ErrorModel, C: float, alpha: float, floor: float = 0.0) -> float:
    """Return the smallest |ln m| that the present runs would have decided with probability POWER.

    Args:
        errors: The present fit and its errors.
        C: Compute of the decision, FLOPs.
        alpha: One-sided level of the test.
        floor: Least estimated distance of ln m that decides.
    """
    se, dof = float(errors.se(C)), errors.dof(C)
    low, high = 0.0, 50 * se + floor
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if power(middle, se, dof, alpha, floor) < POWER else (low, middle)
    return high


@dataclass(frozen=True, eq=False)
class _Design:
    """Runs to be added: which rows they resemble, and their compute over that of those rows."""

    rows: Array
    scale: float = 1.0


@dataclass(frozen=True, eq=False)
class _Plan:
    """The test with further runs."""

    errors: ErrorModel
    C: float
    distance: float
    alpha: float
    z: Array
    floor: NoiseFloor | None

    def smallest(self, kind: str, added: Any, most: int) -> FurtherRuns | None:
        """The least k whose power reaches POWER, by doubling and halving."""
        low, high = 0, 1
        while self.power(added(high)) < POWER:
            low, high = high, 2 * high
            if low >= most:
                return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.power(added(middle)) < POWER else (low, middle)
        if high > most:
            return None
        designs = added(high)
        C = self.errors.fit.runs.C
        return FurtherRuns(
            kind,
            high,
            sum(len(design.rows) * seeds for design, seeds in designs),
            float(sum(C[design.rows].sum() * design.scale * seeds for design, seeds in designs)),
            self.power(designs),
        )

    def power(self, added: Iterable[tuple[_Design, int]]) -> float:
        """Power of the test with these runs beside the present ones."""
        errors, fit = self.errors, self.errors.fit
        along = fit.along(self.C)
        data = errors.X.T @ errors.X
        before = errors.inverse @ along
        own, _ = errors.variances(along)
        unit_error = float(own) / max(
            float(before @ data @ before), 1e-300
        )  # variance of an error, units and pairs in it
        units = 0.0
        for design, seeds in added:
            X = _rows(fit, design)
            data = data + seeds * (X.T @ X)
            units += seeds * len(design.rows) * errors.units / len(fit.runs)
        after = np.linalg.solve(data + fit.precision, along)
        variance = unit_error * float(after @ data @ after) + float(after @ fit.precision @ after) * fit.sd**2
        floor = self._floor(added)
        return power(self.distance, float(np.sqrt(variance)), errors.dof(self.C) + units, self.alpha, floor)

    def _floor(self, added: Iterable[tuple[_Design, int]]) -> float:
        """The noise floor with these runs, as a distance of ln m; runs at other rungs do not lower it."""
        if self.floor is None:
            return 0.0
        before = np.array([np.sum(self.floor.rows & (self.z == arm)) for arm in (0, 1)], float)
        if not before.all():
            return self.floor.distance
        after = before.copy()
        for design, seeds in added:
            rows = design.rows[self.floor.rows[design.rows]] if design.scale == 1 else design.rows[:0]
            after += seeds * np.bincount(self.z[rows].astype(int), minlength=2)
        return self.floor.distance * float(np.sqrt((1 / after).sum() / (1 / before).sum()))


def _rows(fit: EfficiencyFit, design: _Design) -> Array:
    """Derivatives of ln L of the added runs, shape (k, p)."""
    surface, at = fit.surface, design.rows
    grown = np.log(design.scale)  # both N and D grow by its root
    there = replace(
        surface,
        x=surface.x[at] + grown / 2,
        y=surface.y[at] + grown / 2,
        w=surface.w[at] + grown,
        z=surface.z[at],
        target=surface.target[at],
        weight=surface.weight[at],
    )
    return there.at(fit.theta[None])[1][0][~fit.held].T


def _points(runs: Observations, z: Array, which: Array) -> _Design:
    """One run of each design point among some runs."""
    rows = np.flatnonzero(which)
    keys = np.round(np.log(np.stack([runs.N[rows], runs.D[rows]], axis=1)), 6)
    _, first = np.unique(np.column_stack([z[rows], keys]), axis=0, return_index=True)
    return _Design(rows[np.sort(first)])


def _both(design: _Design, z: Array) -> bool:
    return len(np.unique(z[design.rows])) == 2


def _inside(runs: Observations, z: Array) -> Array:
    """Runs within the compute that both recipes share."""
    low = max(runs.C[z == arm].min() for arm in (0, 1)) / TOP
    high = min(runs.C[z == arm].max() for arm in (0, 1)) * TOP
    flops = runs.C
    return (flops >= low) & (flops <= high)


def _step(runs: Observations, z: Array) -> float:
    """Median ratio of neighbouring rungs of compute."""
    steps = np.diff(np.unique(np.round(np.log(runs.C[_inside(runs, z)]), 2)))
    steps = steps[steps > np.log(LEAST_STEP) * 0.9]
    return float(np.exp(np.median(steps))) if len(steps) else LEAST_STEP


def _repeats(runs: Observations, z: Array, top: _Design) -> int:
    """Seeds of the runs at the largest shared compute, rounded up."""
    flops = runs.C
    shared = _inside(runs, z) & (flops >= flops[top.rows].min() / TOP)
    return int(np.ceil(shared.sum() / len(top.rows)))
