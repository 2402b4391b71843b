"""What every recipe check is, and what it finds.

    measured value with its 80% interval over seeds, against a threshold  ->  ok | fails | undecided

`fails` and `ok` need the whole interval on one side of the threshold. A check that could not measure is
undecided, with the reason.

Not here: the checks (members/), the runs that they train (workbench.py).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:  # the workbench imports torch
    from scalelab.recipe_check.workbench import RecipeWorkbench

RecipeVerdict = Literal["ok", "fails", "undecided"]
LEVEL = 0.8
"""Level of every interval."""


@dataclass(frozen=True)
class RecipeMeasure:
    """One measured value of a check, with its interval. Unknown values are None."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    threshold: float
    """Largest |value| of a recipe that scales."""
    reason: str = ""
    """Why it could not be decided, as a phrase; empty where the numbers say it."""

    @property
    def verdict(self) -> RecipeVerdict:
        """Ok or fails where the interval lies on one side of the threshold, else undecided."""
        if self.low is None or self.high is None:
            return "undecided"
        if self.low > self.threshold or self.high < -self.threshold:
            return "fails"
        if max(-self.low, self.high) <= self.threshold:
            return "ok"
        return "undecided"

    def to_json(self) -> dict[str, Any]:
        """The measure as JSON types; an end of the interval that is unknown or unbounded is null."""
        low, high = (v if v is not None and abs(v) < float("inf") else None for v in (self.low, self.high))
        return vars(self) | {"low": low, "high": high, "verdict": self.verdict}


@dataclass(frozen=True)
class RecipeRow:
    """One line of what a check measured, in the order of its columns."""

    cells: tuple[str | float | int | None, ...]


@dataclass(frozen=True)
class CheckCurve:
    """One line in the figure of a check. Measured."""

    panel: str
    """Title of the panel in which it stands; curves of one panel share it."""
    name: str
    """What it is, where a panel has several curves."""
    x: tuple[float, ...]
    y: tuple[tuple[float, ...], ...]
    """Values at each x, one for each seed; NaN where there is none."""
    best: float | None = None
    """Where the curve is lowest, in x; None where it is not known to be lowest within it."""


@dataclass(frozen=True)
class CheckPlot:
    """The figure of a check: panels with curves over one x. Both axes but a linear y are logarithmic."""

    x_label: str
    y_label: str
    log_y: bool
    curves: tuple[CheckCurve, ...]
    own: float | None = None
    """The recipe's own x; None where it has none."""


@dataclass(frozen=True)
class CheckFinding:
    """What a check measured. All losses and activations are measured; intervals are over seeds."""

    measures: Sequence[RecipeMeasure]
    settings: Mapping[str, str | float | int]
    """Sizes, tokens, steps, batch and seeds, by name."""
    columns: tuple[str, ...] = ()
    rows: Sequence[RecipeRow] = ()
    seconds: float = 0.0
    """Seconds of training and evaluation of all its runs, measured when each was trained."""
    n_runs: int = 0
    notes: Sequence[str] = field(default=())
    """What a reader has to know of the limits, as sentences."""
    plot: CheckPlot | None = None
    """Its figure; None for a check without one."""

    @property
    def verdict(self) -> RecipeVerdict:
        """Fails where a measure does; else undecided where one is; else ok."""
        found = {measure.verdict for measure in self.measures}
        return next((v for v in ("fails", "undecided") if v in found), "ok")

    @property
    def worst(self) -> RecipeMeasure:
        """The measure that decides: of those with the worst verdict the one farthest beyond its threshold."""
        of = [m for m in self.measures if m.verdict == self.verdict]
        return max(of, key=lambda m: 0.0 if m.value is None else abs(m.value) / m.threshold)


class RecipeCheck(ABC):
    """One check. A member of RECIPE_CHECKS has no arguments."""

    title: ClassVar[str]
    """What it checks, in a few words."""
    question: ClassVar[str]
    """What is compared with what, as a sentence."""
    unit: ClassVar[str]
    """Unit of its values."""

    @abstractmethod
    def run(self, bench: "RecipeWorkbench") -> CheckFinding:
        """Train what is not trained yet and return what was measured.

        Raises:
            ConfigError: The recipe's family has no models that fit the budget.
        """
