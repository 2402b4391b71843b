"""How much evidence a decision takes when there are several challengers, and several looks.

    nominal_level(alpha, look, looks)   level of one look at data that grow in equal steps
    holm(p)                             p-values of several challengers together

Looks. A test that is repeated as seeds come in promotes by chance more often than its level says. O'Brien and
Fleming's boundary spends almost none of the level early: with Z_k the statistic at look k of K, the boundary is
c sqrt(K / k), where c makes the probability of crossing it at any look alpha. The probability is found by
integrating the density of Z_k over what has not crossed yet, look after look. With errors from few units the
level of each look is that of the normal boundary, and the statistic has Student's distribution: Jennison &
Turnbull's significance-level approach, section 4.4.

Source: O'Brien & Fleming 1979, doi:10.2307/2530245; the recursion, Armitage, McPherson & Rowe 1969,
doi:10.2307/2343787; Jennison & Turnbull 2000, Group Sequential Methods; Holm 1979 (Scandinavian Journal of
Statistics 6).
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from scalelab.errors import ConfigError

MOST_LOOKS = 20
LEAST_ALPHA = 1e-6  # below it the boundary lies beyond the range of the search, and no error is known so well


@cache
def boundary(alpha: float, looks: int) -> float:
    """The constant c of a one-sided O'Brien-Fleming boundary of so many looks."""
    if looks == 1:
        return float(-ndtri(alpha))
    found = brentq(lambda c: crossed(c, looks) - alpha, -ndtri(alpha) * 0.9, 6.0, xtol=1e-6)
    return float(found)


def crossed(c: float, looks: int) -> float:
    """Probability that a statistic without drift crosses c sqrt(K / k) at any of K looks.

    In the scale of sums, S_k = sum of k standard normal steps, the boundary is c sqrt(K) at every look.
    """
    top = c * np.sqrt(looks)
    s = np.linspace(top - 14 * np.sqrt(looks), top, 1501)
    step = s[1] - s[0]
    weight = np.full(len(s), step)
    weight[[0, -1]] /= 2
    density = np.exp(-(s**2) / 2) / np.sqrt(2 * np.pi)
    kernel = np.exp(-((s[:, None] - s[None]) ** 2) / 2) / np.sqrt(2 * np.pi)
    out = float(ndtr(-top))
    for _ in range(looks - 1):
        inside = density * weight
        out += float(inside @ ndtr(s - top))
        density = kernel @ inside
    return out


def nominal_level(alpha: float, look: int = 1, looks: int = 1) -> float:
    """Level of one look, one-sided, so that all looks together promote by chance with probability alpha.

    Args:
        alpha: Level of all looks together.
        look: Which look it is, from 1.
        looks: How many were planned.

    Raises:
        ConfigError: There is no such look, or more than MOST_LOOKS.
    """
    if not (LEAST_ALPHA <= alpha < 0.5):
        raise ConfigError(
            f"alpha = {alpha}",
            where="--alpha",
            fix=f"give a level from {LEAST_ALPHA:g} to below 0.5, such as 0.025",
        )
    if not 1 <= look <= looks <= MOST_LOOKS:
        raise ConfigError(
            f"look {look} of {looks}",
            where="--look",
            fix=f"give the number of this look and of all planned ones, such as 2/4; at most {MOST_LOOKS}",
        )
    return float(ndtr(-boundary(alpha, looks) * np.sqrt(looks / look)))


def holm(p: Sequence[float]) -> tuple[float, ...]:
    """p-values adjusted for having been chosen among several: reject where they are below the level.

    Args:
        p: One p-value for each challenger.
    """
    order = np.argsort(p, kind="stable")
    adjusted, least = [0.0] * len(p), 0.0
    for place, k in enumerate(order):
        least = max(least, min(1.0, (len(p) - place) * p[k]))
        adjusted[k] = least
    return tuple(adjusted)
