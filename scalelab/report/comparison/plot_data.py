"""The numbers of the figures of a comparison: multipliers by compute, and both frontiers."""

from dataclasses import dataclass

import numpy as np

from scalelab.comparison.arms import UNITS
from scalelab.comparison.bounded import limits
from scalelab.comparison.pairwise import PairComparison, RungComparison
from scalelab.comparison.verdict import JudgedPair, RecipeComparison
from scalelab.laws.observations import Array

POINTS = 81


@dataclass(frozen=True, eq=False)
class MultiplierCurve:
    """Compute multiplier of one challenger by compute."""

    name: str
    baseline: str
    flops: Array
    multiplier: Array
    """NaN where it lies beyond the runs; the ends of its interval are then the limits of what has numbers."""
    low: Array
    high: Array
    evidence_end: float
    """Largest shared compute, FLOPs."""
    rung_flops: Array
    rung_multiplier: Array
    """From the runs of one rung."""
    rung_low: Array
    rung_high: Array
    min_gain: float
    level: float
    kind: str
    """measured or simulated runs."""


@dataclass(frozen=True, eq=False)
class RecipeFrontiers:
    """Lowest loss by compute of the baseline and one challenger."""

    names: tuple[str, str]
    flops: Array
    loss: tuple[Array, Array]
    evidence_end: float
    runs_flops: tuple[Array, Array]
    runs_loss: tuple[Array, Array]
    unit: str
    kind: str


def multiplier_curve(found: RecipeComparison, judged: JudgedPair) -> MultiplierCurve:
    """Return the multiplier from the least shared compute to the reach, with its interval."""
    pair = judged.pair
    flops = _range(judged)
    evidence = (pair.baseline.least_flops, pair.baseline.most_flops)
    edges = np.array([limits(float(c), evidence, pair.settings.reach) for c in flops])
    ends = np.array([pair.multiplier_interval(float(c)) for c in flops]).clip(edges[:, :1], edges[:, 1:])
    fitted = np.exp(pair.fit.ln_multiplier(flops))
    alone = [rung for rung in pair.rungs if rung.measured is not None and rung.measured.value is not None]
    intervals = np.array([_ends(pair, rung) for rung in alone], float).reshape(-1, 2)
    return MultiplierCurve(
        judged.name,
        found.baseline.name,
        flops,
        np.where((edges[:, 0] <= fitted) & (fitted <= edges[:, 1]), fitted, np.nan),
        ends[:, 0],
        ends[:, 1],
        pair.C_0,
        np.array([rung.flops for rung in alone], float),
        np.array([rung.measured.value for rung in alone if rung.measured], float),
        intervals[:, 0],
        intervals[:, 1],
        found.request.min_gain,
        found.request.level,
        found.kind,
    )


def _ends(pair: PairComparison, rung: RungComparison) -> tuple[float, float]:
    """Both ends of what the runs of one rung say; those beyond the runs lie at the limit of what has numbers."""
    assert rung.measured is not None
    least, most = limits(
        rung.flops, (pair.baseline.least_flops, pair.baseline.most_flops), pair.settings.reach
    )
    low, high = rung.measured.low, rung.measured.high
    return (least if low is None else low, most if high is None else high)


def recipe_frontiers(found: RecipeComparison, judged: JudgedPair) -> RecipeFrontiers:
    """Return both frontiers under the joint law, and the runs."""
    pair = judged.pair
    flops = _range(judged)
    arms = (pair.baseline.runs, pair.other.runs)
    return RecipeFrontiers(
        (found.baseline.name, judged.name),
        flops,
        (pair.fit.frontier(flops, False).L, pair.fit.frontier(flops, True).L),
        pair.C_0,
        (arms[0].C, arms[1].C),
        (arms[0].L, arms[1].L),
        UNITS[found.request.metric],
        found.kind,
    )


def _range(judged: JudgedPair) -> Array:
    pair = judged.pair
    first = min(pair.rungs[0].flops, pair.C_0 / 1.5)
    last = pair.settings.reach if pair.has_trend else 1.5
    return np.geomspace(first, pair.C_0 * max(last, 1.5), POINTS)
