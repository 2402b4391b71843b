"""Whether the learning rate of a recipe is tuned, by the rates that were tried for it.

In each cell of a size and a token count the best rate is the lowest point of ln L as a parabola in ln rate: with
LEAST_RUNS rates or more of a robust surface with an interval (laws/tuned_settings.py), with fewer of the parabola
through the best rate and its two neighbours. A rate is tuned where it lies within FACTOR of the best one, or inside
its interval. Where the best rate that was tried is the smallest or the largest one, the best one is not known.

Source: the need for it, openreview 2FZC0c06jP (rankings of data change with the rate of small models).
Not here: which rates were tried (records/tried_rates.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from scalelab.laws.response import LEAST_RUNS
from scalelab.laws.tuned_settings import SettingsOptimum, optimum_of
from scalelab.records.tried_rates import RateCell
from scalelab.units import si

FACTOR = 3**0.5
"""Factor from the best rate within which a rate is tuned: half a step of the usual trials at x1/3, x1 and x3."""
NEIGHBOURS = 3
"""Rates of which a parabola is made."""

Status = Literal["tuned", "off", "open"]


@dataclass(frozen=True)
class RateFinding:
    """What the rates that were tried in one cell say."""

    status: Status
    """tuned: near the best rate; off: away from it; open: the best rate lies beyond those tried, or is not known."""
    words: str
    best: float | None = None
    """Best rate, fitted; None where it is not known."""


@dataclass(frozen=True)
class ArmTuning:
    """What is known of the learning rate of one recipe."""

    cells: tuple[RateCell, ...] = ()
    findings: tuple[RateFinding, ...] = ()
    """One finding for each cell."""

    @property
    def status(self) -> Status | None:
        """Off or open where a cell says so, tuned where all others do; None where nothing was tried."""
        found = {each.status for each in self.findings}
        return next((status for status in ("off", "open", "tuned") if status in found), None)

    @property
    def words(self) -> str:
        """The status with its reasons."""
        if not self.findings:
            return "no other rate was tried"
        sources = sorted({name for cell in self.cells for name in cell.sources})
        shown = ", ".join(sources[:3]) + (f" and {len(sources) - 3} more" if len(sources) > 3 else "")
        return "; ".join(each.words for each in self.findings if each.status == self.status) + f" ({shown})"


def arm_tuning(cells: Sequence[RateCell]) -> ArmTuning:
    """Return what the rates that were tried say of a recipe's own rates."""
    return ArmTuning(tuple(cells), tuple(_finding(cell) for cell in cells))


def _finding(cell: RateCell) -> RateFinding:
    x, y = np.log(cell.rates), np.log(cell.losses)
    where = f"at N = {si(cell.n_params)} and D = {si(cell.n_tokens)}"
    low, high, best = np.nan, np.nan, int(np.argmin(y))
    if len(x) >= LEAST_RUNS:
        found = optimum_of(x[:, None], np.array(cell.losses), ("learning rate",))
        if not isinstance(found, SettingsOptimum):
            return RateFinding("open", f"{where} {found}")
        place = float(found.place[0])
        low, high = found.interval(0)
    elif len(x) < NEIGHBOURS:
        return RateFinding("open", f"{where} {len(x)} rates were tried, and {NEIGHBOURS} are needed")
    elif best in (0, len(x) - 1):
        end = "smallest" if best == 0 else "largest"
        return RateFinding("open", f"{where} the best rate of those tried is the {end}, {cell.rates[best]:g}")
    else:
        a, b, _ = np.polyfit(x[best - 1 : best + 2], y[best - 1 : best + 2], 2)
        place = float(-b / (2 * a))
    near = abs(np.log(cell.own) - place) <= np.log(FACTOR) or low <= np.log(cell.own) <= high
    best_rate = float(np.exp(place))
    words = (
        f"{where} the best rate is {best_rate:.2g} (fitted, {len(x)} rates) and the recipe's {cell.own:.2g}"
    )
    return RateFinding("tuned" if near else "off", words, best_rate)
