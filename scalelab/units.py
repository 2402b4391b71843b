"""The symbol, column name, unit and kind of every quantity, and how numbers are written for eyes.

symbol  column                 unit              meaning
N       n_params               parameters        the count that a fit used; see PARAM_COUNTS
D       n_tokens               tokens            training tokens seen
C       flops                  FLOPs             training compute, forward and backward
L       loss                   nats per token    validation loss at the end of the schedule
-       bpb                    bits per byte     the same, comparable across tokenizers
-       mfu                    0 to 1            model FLOPs utilisation; None if peak unknown
"""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

NumberKind = Literal["measured", "fitted", "extrapolated", "simulated", "assumed", "literature", "computed"]
"""Where a number comes from. computed: exact arithmetic on the inputs, such as 6 N D."""
NUMBER_KINDS: tuple[str, ...] = get_args(NumberKind)

PARAM_COUNTS = {
    "total": "every parameter (Hoffmann et al. 2022)",
    "non_embedding": "without input embedding and output head (Kaplan et al. 2020)",
    "matmul": "weights that multiply tokens: blocks and output head (Porian et al. 2024)",
    "active": "parameters that one token uses; equal to total in a dense model",
}

FLOP_COUNTS = {
    "exact": "as recorded; our own runs count every matrix product, attention and head included",
    "6ND": "6 N D, without attention (Kaplan et al. 2020)",
}


YEAR_S = 365.25 * 86400
"""Seconds in a year."""


def si(value: float | None, digits: int = 3) -> str:
    """A count for eyes: 163840 as "164k", 6.3e9 as "6.3B"; "unknown" for None."""
    if value is None:
        return "unknown"
    if abs(value) >= 1e15:
        return sci(value, digits)
    for scale, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale * (1 - 0.5 * 10**-digits):
            return f"{value / scale:.{digits}g}{suffix}"
    return f"{value:.{digits}g}"


def sci(value: float | None, digits: int = 3) -> str:
    """A large number for eyes: 4e12 as "4e12", 1.234e21 as "1.23e21"."""
    if value is None:
        return "unknown"
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    if not exponent:  # infinity, or no number
        return mantissa
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}e{int(exponent)}"


def multiple(value: float) -> str:
    """A factor for eyes: "4x", "62.5x", "1,112x", "1.6e7x"."""
    if value >= 1e6 or 0 < value < 1e-3:
        return f"{sci(value)}x"
    return f"{value:,.0f}x" if value >= 1000 else f"{value:.3g}x"


def duration(seconds: float | None) -> str:
    """Seconds for eyes: "45 s", "3 min 20 s", "2 h 05 min", "3.2 d", "12 years"; "unknown" for None."""
    if seconds is None:
        return "unknown"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return "{} min {:02d} s".format(*divmod(round(seconds), 60))
    if seconds < 2 * 86400:
        return "{} h {:02d} min".format(*divmod(round(seconds / 60), 60))
    if seconds < 5 * YEAR_S:
        return f"{seconds / 86400:.1f} d"
    years = seconds / YEAR_S
    return f"{years:,.0f} years" if years < 1e6 else f"{sci(years)} years"


def interval_text(
    interval: Sequence[float | None] | None, write: Callable[[float], str], none: str = "no interval"
) -> str:
    """Return an interval for eyes: "[8.7B, 9.9B]"; an end that is None is open.

    Args:
        interval: Both ends; None for no interval.
        write: Formats one end.
        none: Text for no interval.
    """
    if interval is None:
        return f"[{none}]" if none else ""
    low, high = ("open" if end is None else write(end) for end in interval)
    return f"[{low}, {high}]"


def digits(count: int) -> Callable[[float], str]:
    """Return a function that writes a number with so many significant digits; whole from 10^count to a million."""

    def write(value: float) -> str:
        text = f"{value:.{count}g}"
        if "e" not in text:
            return text
        return f"{value:,.0f}" if 1 <= abs(value) < 1e6 else sci(value, count)

    return write


def decimals(count: int) -> Callable[[float], str]:
    """Return a function that writes a number with so many decimals."""
    return lambda value: f"{value:.{count}f}"


def size_text(n_bytes: float) -> str:
    """Return bytes for eyes, in powers of ten: "35.8 GB"."""
    for scale, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= scale:
            return f"{n_bytes / scale:.3g} {unit}"
    return f"{n_bytes:.3g} B"
