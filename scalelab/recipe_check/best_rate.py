"""The best learning rate of a setting, from losses at rates of a geometric grid and several seeds.

    k        place on the grid: 3^k times the recipe's rate
    L_sk     loss of seed s at place k, nats per token
    vertex   k0 + (L_- - L_+) / (2 (L_- - 2 L_0 + L_+))    of the parabola through the best place k0 and its neighbours

Losses are means over seeds. Their noise is what is left of L_sk without the effects of seed and place, at
these three places; it goes into the vertex by its derivatives. A best place at the end of the grid has no
vertex: the optimum lies there or beyond.

Not here: which rates are trained (sweeps of rates, members/).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from scalelab.recipe_check.base import LEVEL, RecipeMeasure


@dataclass(frozen=True)
class BestRate:
    """Where the loss is least, in steps of the grid; 0 is the recipe's own rate."""

    at: float
    side: int
    """-1 or 1 where the best rate lies at the lower or upper end of the grid, or beyond; else 0."""
    gradient: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Derivatives of the vertex by the three mean losses."""
    residuals: tuple[float, ...] = ()
    """Losses of the three places without the effects of seed and place."""


def best_rate(losses: Mapping[int, Sequence[float]]) -> BestRate:
    """Return the best rate of one setting.

    Args:
        losses: By place on the grid, without gaps, the loss of each seed in nats per token.
    """
    places = sorted(losses)
    mean = {k: float(np.mean(losses[k])) for k in places}
    best = min(places, key=lambda k: mean[k])
    if best in (places[0], places[-1]):
        return BestRate(float(best), -1 if best == places[0] else 1)
    table = np.array([losses[k] for k in (best - 1, best, best + 1)])  # (3, seeds)
    low, middle, high = table.mean(axis=1)
    bend, tilt = low - 2 * middle + high, low - high
    slope = tilt / (2 * bend**2)
    gradient = (1 / (2 * bend) - slope, 2 * slope, -1 / (2 * bend) - slope)
    residuals = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0, keepdims=True) + table.mean()
    return BestRate(best + tilt / (2 * bend), 0, gradient, tuple(residuals.ravel()))


def moved(name: str, first: BestRate, second: BestRate, seeds: int, threshold: float) -> RecipeMeasure:
    """Return how far the best rate moves from one setting to another, in steps of the grid.

    Args:
        name: Name of the measure.
        first: Best rate at the first setting.
        second: Best rate at the second.
        seeds: Number of seeds of each loss.
        threshold: Largest move of a recipe that transfers, steps.
    """
    move = second.at - first.at
    if first.side and second.side:
        if first.side == second.side:
            reason = "the best rate lies at the end of the grid, or beyond, at both: tune the rate first"
            return RecipeMeasure(name, None, None, None, threshold, reason)
        bounds = (move, math.inf) if move > 0 else (-math.inf, move)
        return RecipeMeasure(
            name, move, *bounds, threshold, "both best rates lie at an end of the grid, or beyond"
        )
    if seeds < 2:
        return RecipeMeasure(name, move, None, None, threshold, "one seed says nothing about noise")
    dof = 2 * (seeds - 1)
    inside = [rate for rate in (first, second) if not rate.side]
    residuals = np.concatenate([rate.residuals for rate in inside])
    variance = float(residuals @ residuals) / (dof * len(inside))
    spread = sum(g * g for rate in inside for g in rate.gradient) * variance / seeds
    half = float(student.ppf(0.5 + LEVEL / 2, dof * len(inside))) * math.sqrt(spread)
    low, high, reason = move - half, move + half, ""
    side = second.side - first.side  # an optimum beyond the end moves the other end of the interval away
    if side:
        low, high = (low, math.inf) if side > 0 else (-math.inf, high)
        reason = "one best rate lies at the end of the grid, or beyond"
    return RecipeMeasure(name, move, low, high, threshold, reason)
