"""Multipliers in words: a number with its interval, or the bound of one that lies beyond the runs.

Not here: which multipliers have numbers (comparison/bounded.py).
"""

from scalelab.comparison.bounded import BoundedMultiplier
from scalelab.units import interval_text, multiple

BEYOND = "beyond the runs"


def multiplier_text(found: BoundedMultiplier) -> str:
    """Return "1.2x", "more than 10x", "less than 0.1x" or "beyond the runs"."""
    if found.value is not None:
        return multiple(found.value)
    if found.above is not None:
        return f"more than {multiple(found.above)}"
    return BEYOND if found.below is None else f"less than {multiple(found.below)}"


def multiplier_interval_text(found: BoundedMultiplier) -> str:
    """Return the interval of a multiplier, ends beyond the runs open; empty without a number."""
    return "" if found.value is None else interval_text([found.low, found.high], multiple)


def multiplier_with_interval(found: BoundedMultiplier) -> str:
    """Return "1.2x [1.1x, 1.4x]", or "beyond the runs: more than 10x"."""
    text = multiplier_text(found)
    if found.value is not None:
        return f"{text} {multiplier_interval_text(found)}"
    return text if text == BEYOND else f"{BEYOND}: {text}"
