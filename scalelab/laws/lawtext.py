"""Each fitted law in words: what the study knows of it, and how its numbers are written.

Not here: the words of a fit itself (LawFit.text), the rest of the summary (summary.py).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scalelab.laws.interval import Interval
    from scalelab.laws.study import Study

WIDTH = 100


@dataclass(frozen=True)
class Known:
    """What a study knows of one fit that the fit itself does not."""

    name: str
    """Of the law."""
    level: float
    """Of every interval."""
    intervals: "Mapping[str, Interval]"
    """Of each constant and exponent; empty where the evidence cannot be redrawn."""
    standard_errors: Mapping[str, float | None]
    correlations: Mapping[tuple[str, str], float]
    """Of pairs of constants, on a log scale."""
    profiles: Mapping[str, list[float | None]]
    """Intervals by profile likelihood, where they were asked for."""
    minima: "Sequence[Mapping[str, Interval]]"
    """For each interior minimum of its slices, the interval of each quantity."""


def law_text(study: "Study", name: str) -> str:
    """The block of one law."""
    known = Known(
        name,
        study.level,
        study.intervals(name),
        study.standard_errors(name),
        study.correlations(name),
        study.profiles.get(name, {}),
        study.minima_intervals(name),
    )
    return "\n".join(study.fits[name].text(known) + _warned(study, name))


def between(interval: list[float] | None, write: Callable[[float], str]) -> str:
    """An interval as text; it says when there is none."""
    return "[no interval]" if interval is None else f"[{write(interval[0])}, {write(interval[1])}]"


def one(value: float) -> str:
    """One decimal."""
    return f"{value:.1f}"


def three(value: float) -> str:
    """Three decimals."""
    return f"{value:.3f}"


def four_digits(value: float) -> str:
    """Four significant digits."""
    return f"{value:.4g}"


def four(value: float) -> str:
    """Four decimals."""
    return f"{value:.4f}"


def wrapped(text: str, lead: str = "  ", more: str = "    ") -> str:
    """A sentence within the width of the summary."""
    return fill(text, WIDTH, initial_indent=lead, subsequent_indent=more)


def open_ended(ends: list[float | None] | None, write: Callable[[float], str]) -> str:
    """A profile interval, whose ends may be open."""
    if ends is None:
        return ""
    low, high = (("open" if end is None else write(end)) for end in ends)
    return f"[{low}, {high}]"


def _warned(study: "Study", name: str) -> list[str]:
    fit, drawn = study.fits[name], study.replicates[name]
    said = [*fit.warnings, *(drawn.notes if drawn else ()), *study.influential(name)]
    if drawn is None:
        why = "nothing can be drawn again" if study.count else "no replicate was asked for"
        said.append(f"no intervals: {why}")
    lines = [wrapped(f"warning: {w}") for w in said]
    if drawn is not None:
        lines.append(
            f"  intervals: {drawn.asked} replicates, {drawn.failed} failed, "
            f"{drawn.edge} at an edge; {drawn.unit}"
        )
    return lines
