"""How each setting of a law forecast larger compute within its own evidence, and the weights that follow.

    origin r'     runs up to C_max / r' are fitted and asked for the runs near the frontier beyond
    error         mean |ln forecast - ln loss| of these runs, by setting
    score         mean error over origins, by setting
    weight        ~ exp(-(score / best score - 1) / TAU)
    rate          mean error of the average / mean ln(1 + reach), every origin with weights from the others

The weights compare settings with one another, so a table that is hard for all of them does not pick one.
The rate says how fast the error of this table grows; no origin takes part in the weights that judge it.

Source: rolling-origin evaluation, Tashman 2000, doi:10.1016/S0169-2070(00)00065-0; weights that fall
exponentially with the loss of each expert, Vovk 1990; their scale was chosen on public tables.

Not here: the law and its answers (law.py), intervals (uncertainty/conformal.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from scalelab.laws.forms.softmax import LEAST_LEVELS, LEAST_RUNS
from scalelab.laws.observations import Array, Observations

REACHES = (1.5, 3.0, 6.0, 12.0, 25.0, 50.0)
"""By how much the origins lie below the largest compute."""
ASKED, NEAR = 5, 5.0
"""Runs that are asked for at most, those of the lowest loss within this factor of the largest compute."""
TAU = 1.0
"""Excess of a score over the best, as a share of it, at which a weight falls to 1/e."""
LEAST_ERROR = 1e-9
"""Score below which settings are equal: runs without noise are met to the last digits by all."""


@dataclass(frozen=True, eq=False)
class Origin:
    """One test inside the evidence."""

    flops: float
    """The most compute that was fitted."""
    count: int
    """Runs that were fitted."""
    reach: Array
    """Compute of each run asked for over `flops`, shape (m,)."""
    errors: Array
    """Ln forecast less ln loss, by setting and run asked for, shape (s, m)."""

    @property
    def ahead(self) -> float:
        """Mean ln(1 + reach)."""
        return float(np.mean(np.log1p(self.reach)))

    def error(self, weights: Array) -> float:
        """Mean absolute error of the average with these weights (s,)."""
        return float(np.mean(np.abs(weights @ self.errors)))


def splits(runs: Observations) -> Iterator[tuple[Array, Array]]:
    """Masks of the runs fitted and asked for, by origin, the nearest first; both of shape (n,)."""
    end, seen = runs.C.max(), set()
    for reach in REACHES:
        train = end / reach * (1 + 1e-9) >= runs.C
        known = runs.take(train)
        thin = min(len(np.unique(known.N)), len(np.unique(known.D))) < LEAST_LEVELS
        if len(known) < LEAST_RUNS or thin:
            return
        far = np.flatnonzero(~train & (end / NEAR < runs.C))
        best = far[np.argsort(runs.L[far], kind="stable")[:ASKED]]
        if (key := (train.sum(), tuple(best))) in seen or not best.size:
            continue
        seen.add(key)
        asked = np.zeros(len(runs), bool)
        asked[best] = True
        yield train, asked


def weights(origins: tuple[Origin, ...], settings: int) -> Array:
    """The weight of every setting, shape (s,); equal without origins.

    Args:
        origins: Tests that judge them.
        settings: How many there are.
    """
    if not origins:
        return np.full(settings, 1 / settings)
    scores = np.mean([np.mean(np.abs(origin.errors), axis=1) for origin in origins], axis=0)
    scores = scores + LEAST_ERROR
    found = np.exp(-(scores / scores.min() - 1) / TAU)
    return found / found.sum()


def rate(origins: tuple[Origin, ...], settings: int) -> float | None:
    """Error of ln L per unit of ln(1 + reach) within the evidence; None without origins."""
    if not origins:
        return None
    errors = [
        origin.error(weights(origins[:k] + origins[k + 1 :], settings)) for k, origin in enumerate(origins)
    ]
    return float(np.mean(errors) / np.mean([origin.ahead for origin in origins]))
