"""The symbol, column name and unit of every quantity, and how numbers are written for eyes.

symbol  column                 unit              meaning
N       n_params               parameters        the count that a fit used; see PARAM_COUNTS
D       n_tokens               tokens            training tokens seen
C       flops                  FLOPs             training compute, forward and backward
L       loss                   nats per token    validation loss at the end of the schedule
-       bpb                    bits per byte     the same, comparable across tokenizers
-       mfu                    0 to 1            model FLOPs utilisation; None if peak unknown
"""

PARAM_COUNTS = {
    "total": "every parameter (Hoffmann et al. 2022)",
    "non_embedding": "without input embedding and output head (Kaplan et al. 2020)",
    "matmul": "weights that multiply tokens: blocks and output head (Porian et al. 2024)",
    "active": "parameters that one token uses; equal to total in a dense model",
}

FLOP_COUNTS = {
    "exact": "every matrix product of the model, attention and head included, as recorded",
    "6ND": "6 N D, without attention (Kaplan et al. 2020)",
}


def si(value: float | None, digits: int = 3) -> str:
    """A count for eyes: 163840 as "164k", 6.3e9 as "6.3B"; "unknown" for None."""
    if value is None:
        return "unknown"
    for scale, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale * (1 - 0.5 * 10**-digits):
            return f"{value / scale:.{digits}g}{suffix}"
    return f"{value:.{digits}g}"


def sci(value: float | None, digits: int = 3) -> str:
    """A large number for eyes: 4e12 as "4e12", 1.234e21 as "1.23e21"."""
    if value is None:
        return "unknown"
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}e{int(exponent)}"


def duration(seconds: float | None) -> str:
    """Seconds for eyes: "45 s", "3 min 20 s", "2 h 05 min", "3.2 d"; "unknown" for None."""
    if seconds is None:
        return "unknown"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"
    if seconds < 2 * 86400:
        return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f} min"
    return f"{seconds / 86400:.1f} d"
