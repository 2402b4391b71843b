"""What is drawn again together: runs, trunks with their branches, or whole budgets.

    units = resampling_units(runs, residuals)      residuals of ln L, where a law gives them
    counts = units.counts(seed)                    None where too few units can show any noise

A unit is what was drawn independently. By default it is a run, or the runs of one group. Two things
change that:

* One group for all runs names the sweep and no shared luck: runs are drawn one by one.
* Where residuals of one budget agree with each other (F test below COMMON), the budget is the unit:
  its runs shared a machine, a data order or a recipe, and single runs would make the interval too
  narrow.

Units are drawn within strata, the set of budgets that they touch, so that no replicate loses a slice.
A stratum of fewer than THICK units hardly varies, and one of a single unit not at all: it is pooled with
its neighbours in compute. Of n units n - 1 are drawn, and each counts n / (n - 1): then the variance of a
mean is unbiased for every n, while n of n would understate it by 1 / n.

Source: the rescaled bootstrap of small strata, Rao & Wu 1988, doi:10.1080/01621459.1988.10478591; whole
clusters, Efron & Tibshirani 1993, chapter 8; the F test of a random effect, Searle et al. 1992,
Variance Components, section 3.6.

Not here: intervals (bootstrap.py), noise around a parabola (isoflop/law.py).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import fdtrc  # scipy.stats takes .4 s to import

from scalelab.laws.observations import Array, Observations, alike

LEAST = 5
"""Units below which nothing is drawn: of four, one replicate in 16 would hold a single one."""
THICK = 5
"""Units of a stratum below which it is pooled: of five, three replicates in four hold three or more."""
COMMON = 0.01
"""Level of the test for residuals that agree within budgets; it is made for every law of a study."""


@dataclass(frozen=True, eq=False)
class ResamplingUnits:
    """Which runs are drawn together, and among which others."""

    unit: Array
    """Number of each run's unit, shape (n,), from 0."""
    strata: tuple[Array, ...]
    """Units that take each other's place."""
    name: str
    """What a unit is, in words."""
    notes: tuple[str, ...] = ()
    """What a reader must know of the choice."""

    def counts(self, seed: int) -> Callable[[int, int], Array] | None:
        """A function that draws replicates i to j: how much each has of each run, shape (j - i, n).

        None where there are fewer than LEAST units. A replicate has a random stream of its own, so it
        does not depend on how many are drawn at once.
        """
        if self.too_few:
            return None
        units = int(self.unit.max()) + 1

        def draw(first: int, last: int) -> Array:
            counts = np.empty((last - first, units))
            for row in range(first, last):
                rng = np.random.default_rng((seed, row))
                for each in self.strata:
                    n = len(each)
                    chosen = rng.integers(n, size=n - 1)
                    counts[row - first, each] = np.bincount(chosen, minlength=n) * (n / (n - 1))
            return counts[:, self.unit]

        return draw

    @property
    def drawn(self) -> str:
        """What is drawn, in words, and among which others."""
        if len(self.strata) == 1:
            return self.name
        return f"{self.name} within {'neighbouring budgets' if self.name == 'budget' else 'budget'}"

    @property
    def too_few(self) -> str | None:
        """Why nothing can be drawn; None where it can."""
        count = int(self.unit.max()) + 1
        if count >= LEAST:
            return None
        return f"{count} {self.name}s are too few to draw again: fewer than {LEAST}"


def resampling_units(runs: Observations, residuals: Array | None = None) -> ResamplingUnits:
    """Return what is drawn together.

    Args:
        runs: Runs that a law was fitted to.
        residuals: Of ln L, shape (n,); None: whether budgets share luck is not asked.
    """
    _, label = np.unique(runs.group, return_inverse=True)
    name, notes = "run", []
    if label.max() == 0 and len(runs) > 1:
        label = np.arange(len(runs))
        notes.append(
            f"the column group says {str(runs.group[0])!r} in every row, which names no shared luck: runs "
            "were drawn one by one"
        )
    elif label.max() + 1 < len(runs):
        name = "group"
    if residuals is not None and (F := shared_luck(runs, residuals)) is not None:
        joined = _joined(label, runs.flops_planned)
        if joined.max() + 1 >= LEAST:
            label, name = joined, "budget"
            notes.append(
                f"the residuals of one budget agree with each other (F = {F:.1f}): whole budgets were drawn"
            )
        else:
            notes.append(
                f"the residuals of one budget agree with each other (F = {F:.1f}), and the budgets are too "
                "few to be drawn whole: the interval is too narrow"
            )
    return ResamplingUnits(label, _strata(runs, label), name, tuple(notes))


def shared_luck(runs: Observations, residuals: Array) -> float | None:
    """F of the residuals between budgets over those within; None where it may be chance.

    Two constants of the fit stand for two budgets, as a rough allowance for what the fit took away.
    """
    known = np.isfinite(runs.flops_planned) & np.isfinite(residuals)
    _, budget = np.unique(runs.flops_planned[known], return_inverse=True)
    y, sizes = residuals[known], np.bincount(budget)
    between, within = len(sizes) - 3, int(known.sum()) - len(sizes)
    if between < 1 or within < 1:
        return None
    mean = np.bincount(budget, y) / sizes
    inside = float(np.sum((y - mean[budget]) ** 2))
    if inside <= 1e-18 * len(y):  # the law goes through every run
        return None
    F = float(np.sum(sizes * (mean - y.mean()) ** 2)) / between / (inside / within)
    return F if fdtrc(between, within, F) < COMMON else None


def _joined(label: Array, planned: Array) -> Array:
    """Units that hold whole budgets and whole groups; runs without a budget keep their own."""
    place = alike(np.where(np.isnan(planned), -1.0 - label, planned))
    while True:
        lowest = np.full(place.max() + 1, len(label))
        np.minimum.at(lowest, place, label)
        joined = lowest[place]
        of_label = np.full(label.max() + 1, len(label))
        np.minimum.at(of_label, label, joined)
        joined = of_label[label]
        if np.array_equal(joined, label):
            return np.unique(joined, return_inverse=True)[1]
        label = joined


def _strata(runs: Observations, label: Array) -> tuple[Array, ...]:
    """Units by the set of budgets that they touch, thin ones pooled with a neighbour in compute."""
    budget = np.searchsorted(runs.budgets, runs.flops_planned)  # NaN sorts last: its own stratum
    touched: dict[int, set[int]] = {}
    for one, where in zip(label.tolist(), budget.tolist(), strict=True):
        touched.setdefault(one, set()).add(where)
    found: dict[tuple[int, ...], list[int]] = {}
    for one in sorted(touched):
        found.setdefault(tuple(sorted(touched[one])), []).append(one)
    spent = np.bincount(label, np.log(runs.C)) / np.bincount(label)
    members = sorted(found.values(), key=lambda units: float(np.mean(spent[units])))
    sizes = np.array([len(units) for units in members])
    middle = np.array([np.mean(spent[units]) for units in members])
    while len(members) > 1 and sizes.min() < THICK:
        at = int(np.argmin(sizes))
        beside = min(
            (i for i in (at - 1, at + 1) if 0 <= i < len(members)), key=lambda i: abs(middle[i] - middle[at])
        )
        low, high = sorted((at, beside))
        members[low] = members[low] + members.pop(high)
        sizes[low], middle[low] = len(members[low]), np.mean(spent[members[low]])
        sizes, middle = np.delete(sizes, high), np.delete(middle, high)
    return tuple(np.array(sorted(units)) for units in members)
