"""One recipe held against a baseline: multiplier at each rung, trend, frontiers, crossing, and both p-values.

    pair = compare_pair(baseline, other, settings)

The compute of the decision, C_0, is the largest that both recipes share: what holds there is nearest to the runs
that follow. The test is Student's, of ln m(C_0) against ln of the least gain, and intervals of multipliers and their
trend are its own. Those of frontiers have the variance of the coordinates carried over by the derivative (delta
method), of the slope, of ln L and of ln N.

Crossing. Where the efficiency has a trend, the multipliers of both recipes cross at ln C_0 - mu / s, a ratio
whose interval is Fieller's: every C at which the interval of ln m(C) contains 0. It may be open, where no
compute up to the reach is excluded. The probability of none is the share of redrawn fits without a crossing
between the least shared compute and the reach.

Source: Fieller 1954 (Journal of the Royal Statistical Society B 16); never beyond ten times the data unless
asked for: METHODS of scaling-law comparisons, Davidson et al. 2023, arXiv:2312.07413.

Not here: several recipes and the verdict (verdict.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from scalelab.comparison.arms import Arm, pooled_noise, together
from scalelab.comparison.bounded import BoundedMultiplier
from scalelab.comparison.efficiency import MU, TREND, EfficiencyFit, fit_efficiency
from scalelab.comparison.further import NORMAL, TOP
from scalelab.comparison.pairing import SharedLuck, shared_luck
from scalelab.comparison.redrawing import ErrorModel, error_model
from scalelab.laws.description import Interval
from scalelab.laws.observations import Array, Observations
from scalelab.study.forecast import SeedNoise

MOST_RUNGS = 10
"""Rungs that are listed; of a ladder with more, evenly spaced ones."""
NEAR = 0.05  # of ln C within which runs belong to one rung
SMALLEST_NOISE = 1e-9  # sd of ln L that priors are weighed with where repeated runs agree exactly
STEP = 1e-5  # of a coordinate, for derivatives by differences
GRID = 801  # points in ln C on which a crossing is looked for
NOT_MEASURED = BoundedMultiplier(None, None, None).to_json("measured_") | {"measured_interval": None}


@dataclass(frozen=True, kw_only=True)
class PairSettings:
    """Settings of one comparison."""

    noise: float | None = None
    """Stated standard deviation of the loss between seeds, in the unit of the loss; None: as measured."""
    min_gain: float = 1.0
    """Multiplier that has to be exceeded."""
    level: float = 0.8
    """Level of every interval."""
    reach: float = 10.0
    """Largest compute at which a crossing is looked for, over the largest shared one."""
    replicates: int = 2000
    """Redrawn fits; 0 for none, and no probability of a crossing."""
    seed: int = 0
    trend: bool = True
    """Whether the multiplier may change with compute."""


@dataclass(frozen=True, eq=False)
class RungComparison:
    """Both recipes at one compute."""

    flops: float
    multiplier: BoundedMultiplier
    """Fitted, with its interval."""
    runs: tuple[int, int]
    """Runs of the baseline and of the other at this compute."""
    difference: float | None
    """Loss of the other minus that of the baseline, measured, at equal size and compute; None without runs of both."""
    floor: float | None
    """Standard error that seeds alone give that difference."""
    verdict: str
    """better, worse or tie."""
    measured: BoundedMultiplier | None
    """Multiplier from the runs of this rung, with the fitted slope of the loss; None without runs of both."""
    kind: str = "fitted"
    """Whether the multiplier is fitted, or extrapolated beyond the baseline's compute."""

    def to_json(self) -> dict[str, Any]:
        """The rung as JSON types."""
        return {
            "flops": self.flops,
            **self.multiplier.to_json(),
            "multiplier_kind": self.kind,
            "runs": list(self.runs),
            "loss_difference": self.difference,
            "noise_floor": self.floor,
            **(NOT_MEASURED if self.measured is None else self.measured.to_json("measured_")),
            "verdict": self.verdict,
        }


@dataclass(frozen=True, eq=False)
class EfficiencyCrossing:
    """Compute at which both recipes need the same compute."""

    best: float | None
    """FLOPs; None: none between the least shared compute and the reach."""
    low: float | None
    """Lower end of its interval; None: open."""
    high: float | None
    """Upper end; None: open, up to the reach."""
    excluded: bool
    """Whether the interval holds no compute in the range."""
    none: float | None
    """Probability that they do not cross in the range; None without redrawn fits."""
    range: tuple[float, float]
    """Least shared compute and reach, FLOPs."""
    before: str
    """Which recipe is ahead at the least shared compute: "other" or "baseline"."""

    def holds(self, C: float) -> bool:
        """Whether the interval contains C."""
        low = self.range[0] if self.low is None else self.low
        high = self.range[1] if self.high is None else self.high
        return not self.excluded and low <= C <= high

    def to_json(self) -> dict[str, Any]:
        """The crossing as JSON types."""
        return {
            "flops": self.best,
            "interval": None if self.excluded else [self.low, self.high],
            "probability_of_none": self.none,
            "range": list(self.range),
            "ahead_before": self.before,
        }


@dataclass(frozen=True, eq=False)
class RecipeFrontier:
    """Compute-optimal frontier of one recipe under the joint law."""

    slope: float | None
    """Exponent of the loss above the floor, gamma; None where sizes do not vary in both recipes."""
    slope_interval: Interval
    loss: float
    """Loss of the optimum at the compute of the decision."""
    loss_interval: Interval
    n_params: float | None
    """Size of that optimum; None where sizes do not vary in both recipes."""
    n_params_interval: Interval

    def to_json(self) -> dict[str, Any]:
        """The frontier as JSON types."""
        return {
            "slope": self.slope,
            "slope_interval": self.slope_interval,
            "loss": self.loss,
            "loss_interval": self.loss_interval,
            "n_params": self.n_params,
            "n_params_interval": self.n_params_interval,
        }


@dataclass(frozen=True, eq=False)
class PairComparison:
    """One recipe and the baseline."""

    baseline: Arm
    other: Arm
    settings: PairSettings
    C_0: float
    """Compute of the decision, FLOPs."""
    z: Array
    """1 for runs of the other recipe, shape (n,)."""
    noise: SeedNoise | None
    """Noise between seeds as measured; None where no design point was repeated."""
    noise_sd: float
    """Standard deviation between seeds that is used, in the unit of the loss."""
    luck: SharedLuck
    fit: EfficiencyFit
    errors: ErrorModel
    theta: Array = field(repr=False)
    """Coordinates of the redrawn fits, shape (r, 9)."""

    @property
    def se(self) -> float:
        """Standard error of ln m(C_0)."""
        return float(self.errors.se(self.C_0))

    @cached_property
    def dof(self) -> float:
        """Degrees of freedom of the test; infinite for a stated noise."""
        return self.errors.dof(self.C_0)

    @property
    def statistic(self) -> float:
        """Student's t of ln m(C_0) against the least gain."""
        away = float(self.fit.ln_multiplier(self.C_0)) - np.log(self.settings.min_gain)
        if self.se > 0:
            return away / self.se
        return float(np.sign(away) * np.inf) if away else 0.0

    @property
    def p_promote(self) -> float:
        """One-sided p-value of the multiplier being no larger than the least gain."""
        return _student(-self.statistic, self.dof)

    @property
    def p_reject(self) -> float:
        """One-sided p-value of the multiplier being no smaller than the least gain."""
        return _student(self.statistic, self.dof)

    @property
    def multiplier(self) -> float:
        """Compute multiplier at the compute of the decision."""
        return float(np.exp(self.fit.ln_multiplier(self.C_0)))

    def multiplier_interval(self, C: float) -> list[float]:
        """Interval of the multiplier at C FLOPs."""
        return self._around(float(self.fit.ln_multiplier(C)), float(self.errors.se(C)))

    @property
    def has_trend(self) -> bool:
        """Whether the multiplier may change with compute."""
        return self.fit.has_trend

    def bounded(self, C: float) -> BoundedMultiplier:
        """Return the multiplier at C FLOPs as far as the baseline's runs support it."""
        return self.within(float(np.exp(self.fit.ln_multiplier(C))), self.multiplier_interval(C), C)

    def within(self, value: float, interval: Sequence[float], C: float) -> BoundedMultiplier:
        """Return any multiplier at C FLOPs as far as the baseline's runs support it."""
        evidence = (self.baseline.least_flops, self.baseline.most_flops)
        return BoundedMultiplier.of(value, interval, C, evidence, self.settings.reach)

    @property
    def supports_trend(self) -> bool:
        """Whether the multipliers at both ends of the shared compute, which the trend joins, have numbers."""
        ends = (self.rungs[0].flops, self.C_0)
        return all(self.bounded(C).value is not None for C in ends)

    @property
    def trend(self) -> float | None:
        """Factor of the multiplier for ten times the compute; None where no trend was fitted."""
        return float(np.exp(self.fit.theta[TREND] * np.log(10))) if self.has_trend else None

    @property
    def trend_interval(self) -> Interval:
        """Its interval."""
        ten = np.log(10)
        return (
            self._around(self.fit.theta[TREND] * ten, self.errors.trend_se * ten) if self.has_trend else None
        )

    @property
    def trend_p(self) -> float | None:
        """Two-sided p-value of no trend; None where no trend was fitted."""
        if not self.has_trend:
            return None
        se = self.errors.trend_se
        return 2 * _student(-abs(float(self.fit.theta[TREND])) / se, self.dof) if se > 0 else 0.0

    @cached_property
    def floor(self) -> float:
        """Standard error that seeds alone give the difference in loss at the largest shared rung."""
        top = [rung for rung in self.rungs if rung.floor is not None]
        return top[-1].floor if top and top[-1].floor is not None else self.noise_sd * np.sqrt(2)

    @property
    def difference(self) -> float:
        """Loss of the other's optimum minus the baseline's at the compute of the decision, fitted."""
        one, two = (self.fit.frontier(self.C_0, second).L[0] for second in (False, True))
        return float(two - one)

    @property
    def excess(self) -> float:
        """Loss of the other's optimum minus that which the least gain alone would give."""
        needed = self.fit.frontier(self.settings.min_gain * self.C_0, False).L[0]
        return float(self.fit.frontier(self.C_0, True).L[0] - needed)

    @property
    def floor_distance(self) -> float:
        """Distance of ln m from that of the least gain at which the loss differs by the noise floor, linearised."""
        one = self.fit.frontier(self.settings.min_gain * self.C_0, False).L[0]
        rest = float(one) - self.fit.params["E"]
        return float(self.floor / rest / self.fit.gamma()[0])

    @property
    def floor_rows(self) -> Array:
        """Runs of the rung that gives the noise floor, a mask of shape (n,)."""
        return np.abs(np.log(_budgets(self.fit.runs) / self.C_0)) < NEAR

    def beyond_baseline(self, C: float) -> float:
        """Factor by which m(C) C lies outside the compute of the baseline's runs; 1 where it lies within."""
        worth = float(np.exp(self.fit.ln_multiplier(C))) * C
        return max(1.0, worth / self.baseline.most_flops, self.baseline.least_flops / worth)

    def multiplier_kind(self, C: float) -> str:
        """fitted, or extrapolated: the loss at C is one that the baseline has beyond its own compute."""
        return "fitted" if self.beyond_baseline(C) <= TOP else "extrapolated"

    @property
    def kinds(self) -> dict[str, str]:
        """Where each number of the comparison comes from, by its name in compare.json."""
        runs = "measured" if self.baseline.kind == "measured" else "simulated"
        crossing = self.crossing
        beyond = crossing is not None and crossing.best is not None and crossing.best > self.C_0
        noise = runs if self.settings.noise is None else "assumed"
        return {
            "multiplier": self.multiplier_kind(self.C_0),
            "loss_difference": "fitted",
            "noise_floor": noise,
            "noise": noise,
            "trend": "fitted",
            "rungs.loss_difference": runs,
            "rungs.noise_floor": noise,
            "rungs.measured_multiplier": "fitted",
            "frontiers": "fitted",
            "crossing": "extrapolated" if beyond else "fitted",
            "joint.params": "fitted",
            "joint.priors": "assumed",
            "separate": "fitted",
            "further": "extrapolated",
            "detectable_multiplier": "fitted",
        }

    def frontier(self, second: bool) -> RecipeFrontier:
        """The compute-optimal frontier of one recipe.

        Args:
            second: Whether it is that of the other recipe; the baseline's otherwise.
        """

        def exponent(theta: Array) -> Array:
            return self.fit.gamma(theta) * (1 + (theta[:, TREND] if second else 0.0))

        def loss(theta: Array) -> Array:
            return np.log(self.fit.frontier(self.C_0, second, theta).L[:, 0])

        def size(theta: Array) -> Array:
            return np.log(self.fit.frontier(self.C_0, second, theta).N[:, 0])

        best = self.fit.frontier(self.C_0, second)
        known = self.fit.has_size
        return RecipeFrontier(
            float(exponent(self.fit.theta[None])[0]) if known else None,
            self._interval(exponent) if known else None,
            float(best.L[0]),
            self._interval(loss, np.exp),
            float(best.N[0]) if known else None,
            self._interval(size, np.exp) if known else None,
        )

    @cached_property
    def crossing(self) -> EfficiencyCrossing | None:
        """Where both recipes need the same compute; None where no trend was fitted."""
        if not self.has_trend:
            return None
        ends = (rung_flops(self.baseline.runs, self.other.runs)[0], self.settings.reach * self.C_0)
        mu, s = self.fit.theta[MU], self.fit.theta[TREND]
        at = float(np.log(self.C_0) - mu / s) if s else np.inf
        best = float(np.exp(at)) if np.log(ends[0]) <= at <= np.log(ends[1]) else None
        none = None
        if len(self.theta):
            first, last = self.fit.ln_multiplier(ends, self.theta).T
            none = float(np.mean(first * last > 0))
        C = np.geomspace(*ends, GRID)
        wide = _quantile((1 + self.settings.level) / 2, self.dof) * self.errors.se(C)
        inside = np.abs(self.fit.ln_multiplier(C)) <= wide
        if best is not None:
            inside[int(np.argmin(np.abs(np.log(C / best))))] = True
        where = np.flatnonzero(inside)
        before = "other" if self.fit.ln_multiplier(ends[0]) > 0 else "baseline"
        if not where.size:
            return EfficiencyCrossing(None, None, None, True, none, ends, before)
        first_at, last_at = C[where[0]], C[where[-1]]
        return EfficiencyCrossing(
            best,
            None if where[0] == 0 else float(first_at),
            None if where[-1] == GRID - 1 else float(last_at),
            False,
            none,
            ends,
            before,
        )

    @cached_property
    def rungs(self) -> tuple[RungComparison, ...]:
        """Both recipes at every rung of the shared compute, the smallest first."""
        return tuple(self._rung(C) for C in rung_flops(self.baseline.runs, self.other.runs))

    def _rung(self, C: float) -> RungComparison:
        runs, fit = self.fit.runs, self.fit
        near = np.abs(np.log(_budgets(runs) / C)) < NEAR
        mine = tuple(int(np.sum(near & (self.z == arm))) for arm in (0, 1))
        interval, multiplier, kind = self.multiplier_interval(C), self.bounded(C), self.multiplier_kind(C)
        if not all(mine):
            return RungComparison(C, multiplier, mine, None, None, _side(interval), None, kind)
        baseline, other = (fit.frontier(C, second).L[0] for second in (False, True))
        E = fit.params["E"]
        per_log = float(fit.gamma()[0] * (other - E) / other)  # fall of ln L per ln m
        weights = np.where(near, np.where(self.z == 1, 1 / mine[1], -1 / mine[0]), 0.0)
        apart = float(weights @ fit.residuals)
        difference = float(other * np.exp(apart) - baseline)
        floor = self.noise_sd * float(np.sqrt(1 / mine[0] + 1 / mine[1]))
        measured = float(np.exp(fit.ln_multiplier(C) - apart / per_log))
        level = self.settings.level
        half = _quantile((1 + level) / 2, self.dof if self.settings.noise is None else np.inf)
        half *= self._rung_error(weights, per_log)
        ends = [measured * float(np.exp(-half)), measured * float(np.exp(half))]
        side = "tie" if abs(difference) < floor else _side(interval)
        alone = self.within(measured, ends, C)
        return RungComparison(C, multiplier, mine, difference, floor, side, alone, kind)

    def _rung_error(self, weights: Array, per_log: float) -> float:
        """Standard error of ln m from the runs of one rung, with the fitted slope of the loss taken as known."""
        errors = self.errors
        by_unit = np.bincount(errors.unit, weights * errors.adjusted / errors.weight)
        return float(np.sqrt(np.sum(by_unit**2))) / per_log

    def _interval(
        self, quantity: Callable[[Array], Array], write: Callable[[Array], Array] = np.asarray
    ) -> Interval:
        """Interval of a smooth quantity of the coordinates, by its derivative; None where that is no number."""
        free = np.flatnonzero(~self.fit.held)
        moves = np.zeros((2 * len(free), len(self.fit.theta)))
        moves[np.arange(len(free)), free] = STEP
        moves[np.arange(len(free)) + len(free), free] = -STEP
        values = quantity(np.vstack([self.fit.theta[None], self.fit.theta + moves]))
        along = (values[1 : len(free) + 1] - values[len(free) + 1 :]) / (2 * STEP)
        half = _quantile((1 + self.settings.level) / 2, self.dof) * float(
            np.sqrt(sum(self.errors.variances(along)))
        )
        ends = [float(write(values[0] - half)), float(write(values[0] + half))]
        return ends if np.isfinite(ends).all() else None

    def _around(self, middle: float, se: float) -> list[float]:
        """Interval of a quantity whose ln is linear in the coordinates."""
        half = _quantile((1 + self.settings.level) / 2, self.dof) * se
        return [float(np.exp(middle - half)), float(np.exp(middle + half))]


def compare_pair(baseline: Arm, other: Arm, settings: PairSettings) -> PairComparison:
    """Fit both recipes jointly and return how they compare. Both are taken to be comparable (arms.py).

    Args:
        baseline: The recipe whose compute the multiplier is counted in.
        other: The recipe that is judged.
        settings: Noise, least gain, levels and replicates.

    Raises:
        FitError: The joint law was not found, or the runs have too few units to show their errors.
    """
    runs, z = together(baseline.runs, other.runs)
    noise = pooled_noise(baseline.runs, other.runs)
    if settings.noise is not None:
        sd = settings.noise
    else:
        sd = noise.sd if noise is not None else 0.0
    C_0 = rung_flops(baseline.runs, other.runs)[-1]
    relative = sd / float(runs.L.min()) if settings.noise is not None else sd / float(np.mean(runs.L))
    fit = fit_efficiency(runs, z, C_0, max(relative, SMALLEST_NOISE), trend=settings.trend)
    luck = shared_luck(runs, z)
    stated = None if settings.noise is None else relative
    errors = error_model(fit, luck.unit, luck.cell, luck.joined_cell, luck.trunk, stated)
    theta = errors.draws(settings.replicates, settings.seed, C_0)
    return PairComparison(baseline, other, settings, C_0, z, noise, sd, luck, fit, errors, theta)


def rung_flops(baseline: Observations, other: Observations) -> tuple[float, ...]:
    """Return the compute of each rung that both recipes cover, FLOPs, the smallest first.

    Rungs are the budgets of the other recipe, or clusters of its compute, within that of the baseline.
    """
    low, high = baseline.C.min() / TOP, baseline.C.max() * TOP
    values = np.sort(_budgets(other))
    step = np.diff(np.log(values), prepend=np.log(values[0])) > NEAR / 2
    place = np.cumsum(step)
    ends = np.append(np.flatnonzero(np.diff(place)), len(values) - 1)
    middle = np.exp(np.bincount(place, np.log(values)) / np.bincount(place))
    rungs = np.where(values[ends] == values[np.append(0, ends[:-1] + 1)], values[ends], middle)
    rungs = rungs[(rungs >= low) & (rungs <= high)]
    if not rungs.size:  # the baseline's range lies between two rungs of the other
        rungs = np.sqrt([max(low, values[0]) * min(high, values[-1])])
    if len(rungs) > MOST_RUNGS:
        rungs = rungs[np.unique(np.linspace(0, len(rungs) - 1, MOST_RUNGS).round().astype(int))]
    return tuple(float(C) for C in rungs)


def _budgets(runs: Observations) -> Array:
    """Compute by which runs are put into rungs: the budget where there is one, else what was spent."""
    return np.where(np.isfinite(runs.flops_planned), runs.flops_planned, runs.C)


def _side(interval: Interval) -> str:
    """Whether a multiplier differs from 1 by its interval."""
    if interval is None or interval[0] <= 1 <= interval[1]:
        return "tie"
    return "better" if interval[0] > 1 else "worse"


def _student(t: float, dof: float) -> float:
    """Probability below t."""
    return float(ndtr(t) if dof > NORMAL else stdtr(dof, t))


def _quantile(p: float, dof: float) -> float:
    return float(ndtri(p) if dof > NORMAL else stdtrit(dof, p))
