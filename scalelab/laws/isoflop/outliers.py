"""Runs that lie where no valley of losses could put them: a crash, a typing error, a bad seed.

    miss_i = L_i - q(ln N_i)            q the curve that most runs of the slice agree on
    ruined:  |miss_i| > max(8 s r_i, p q_i, half the height of q_i above its lowest point)
             p = 1.5%; 5% at the smallest and at the largest size, which q extrapolates to

q is the parabola, or from nine sizes on the cubic, whose error at three quarters of the runs is
smallest: least quantile of squares, searched through as many runs at a time as determine it,
then least squares over the runs so chosen. The other quarter cannot bend it, wherever it lies.
s is the robust spread of the losses, pooled over slices, and r_i what extrapolating to a run
adds. The height is there because a true valley is neither shape: far from the minimum it parts
from both, by a share of the height. So a run 10% off is detected on slices of seven sizes within
+-4x; on coarse and wide ones, where it moves N* least, only a larger error is.

Source: Rousseeuw 1984, least median of squares, doi:10.1080/01621459.1984.10477105; the scale
with its correction for few points, Rousseeuw & Leroy 1987, section 5.1. The tolerances are ours.

Not here: what the minimum is without these runs (slices.py).
"""

from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np

from scalelab.laws.observations import Array

SHARE = 0.25  # of a slice's runs, the most that can be distinguished from a different valley
LEAST_SIZES = 5  # with fewer, any single run can be the one that does not fit
SPREADS, OF_LOSS, AT_END, OF_HEIGHT = 8.0, 0.015, 0.05, 0.5
CUBIC_SIZES = 9  # with fewer, a cubic follows the noise
ELEMENTS = 5000  # sets of runs searched; of more, so many are drawn: nearly a third are clean
CROWD = 200  # runs of a slice; of more, so many are drawn to find the curve


@dataclass(frozen=True, eq=False)
class Consensus:
    """What three quarters of a slice's runs agree on."""

    expected: Array
    """Loss of the curve at every run."""
    at_end: Array
    """Whether a run has the smallest or the largest size."""
    is_valley: bool
    spread: float
    """Robust standard deviation around it, nats per token."""
    reach: Array
    """How much less sure the curve is of a run that did not shape it; 1 were it exact."""

    @classmethod
    def of(cls, N: Array, L: Array) -> "Consensus | None":
        """The curve of most runs; None where too few sizes can say."""
        n, sizes = len(N), len(np.unique(N))
        if sizes < LEAST_SIZES:
            return None
        terms = 4 if sizes >= CUBIC_SIZES else 3
        x = np.log(N)
        x = (x - x.mean()) / np.ptp(x)
        some = np.arange(n)
        if n > CROWD:
            some = np.random.default_rng(0).choice(n, CROWD, replace=False)
        kept = len(some) - int(SHARE * len(some))
        misses = np.abs(_through(x[some], L[some], _elements(x[some], terms)) - L[some])
        best = np.argmin(np.partition(misses, kept - 1, axis=1)[:, kept - 1])
        nearest = some[np.argsort(misses[best], kind="stable")[:kept]]
        powers = np.vander(x, terms, increasing=True)
        onto = powers @ np.linalg.pinv(powers[nearest])
        expected = onto @ L[nearest]
        spread = 1.4826 * (1 + 5 / (n - terms)) * float(np.median(np.abs(L - expected)))
        at_end = np.isin(N, [N.min(), N.max()])
        opens = np.polyfit(x, expected, 2)[0] > 0
        return cls(expected, at_end, bool(opens), spread, np.sqrt(1 + np.sum(onto**2, axis=1)))

    def ruined(self, L: Array, spread: float) -> Array:
        """Mask of the runs that cannot belong to the valley; empty where too many do not."""
        height = self.expected - self.expected.min()
        share = np.where(self.at_end, AT_END, OF_LOSS)
        allowed = np.maximum(share * np.abs(self.expected), OF_HEIGHT * height)
        noise = SPREADS * (spread or self.spread) * self.reach
        found = np.abs(L - self.expected) > np.maximum(allowed, noise)
        told = self.is_valley and found.sum() <= int(SHARE * len(L))
        return found if told else np.zeros(len(L), bool)


def _elements(x: Array, terms: int) -> Array:
    """Sets of runs at different sizes that determine the curve: all, or a fixed sample."""
    n = len(x)
    if comb(n, terms) <= ELEMENTS:
        found = np.array(list(combinations(range(n), terms)))
    else:
        found = np.random.default_rng(0).integers(n, size=(ELEMENTS, terms))
    return found[np.all(np.diff(np.sort(x[found], axis=1), axis=1) > 0, axis=1)]


def _through(x: Array, L: Array, elements: Array) -> Array:
    """The curve through each set, at every run: shape (sets, n). Lagrange's form."""
    at, total = x[elements], np.zeros((len(elements), len(x)))
    for j in range(elements.shape[1]):
        others = np.delete(at, j, axis=1)
        share = np.prod(x[None, :, None] - others[:, None, :], axis=2)
        total += share * (L[elements[:, j]] / np.prod(at[:, [j]] - others, axis=1))[:, None]
    return total
