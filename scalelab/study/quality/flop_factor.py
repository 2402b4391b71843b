"""By what factor recorded FLOPs differ from 6 N D, and why.

    FlopFactor.of(N, D, C) -> FlopFactor | None where FLOPs are as expected

A constant factor over sizes is another count or unit: a head and attention cost more of a small model
than of a large one, so an exact count has no constant factor but 1. A factor that varies with size is
usual, within bounds that are wide in small models.

Symbols: f = C / (6 N D).
"""

from dataclasses import dataclass

import numpy as np

from scalelab.laws.observations import Array

RIGHT = 0.1  # a constant factor this close to 1 is what steps, padding and a small head leave
CONSTANT = 1.03  # ratio of the 95% and the 5% quantile of f
SPAN = 4.0  # ratio of the sizes over which a head's share would have shown
QUESTIONED = (0.55, 1.9)  # a constant factor within: FLOPs that the hardware did, perhaps; outside, no count
LARGE = 1e8  # parameters; from here on head and attention are less than 80% of the rest
USUAL = (0.6, 1.8)  # f of such models, whichever parameters N counts
TOY = (0.05, 20.0)  # f of smaller ones: a vocabulary may cost many times the blocks
OTHER_ROWS = 1000.0  # f beside its median: GFLOPs in some rows
MATCH, ROUGH = 0.03, 0.3  # share by which a cause may be off: of a constant factor, and of another

_COUNTS = (
    (1.0, "", 1.0),
    (1 / 3, "the forward pass alone, 2 N D", 3.0),
    (2 / 3, "the backward pass alone, 4 N D", 1.5),
    (1 / 2, "multiply-accumulates (MACs), 3 N D; each is two FLOPs", 2.0),
    (1 / 6, "multiply-accumulates (MACs) of the forward pass, N D", 6.0),
    (4 / 3, "recomputation of the forward pass counted, 8 N D", 0.75),
    (2.0, "12 N D, each multiply-accumulate counted twice", 0.5),
    (3.0, "18 N D, tripled for a backward pass that was in it", 1 / 3),
    (4.0, "24 N D, recomputation counted (8 N D) and tripled for a backward pass that was in it", 0.25),
)
"""Factor, what is counted, and what to multiply by."""
_UNITS = (
    (1.0, "FLOPs", 1.0),
    (1e-6, "MFLOPs", 1e6),
    (1e-9, "GFLOPs", 1e9),
    (1e-12, "TFLOPs", 1e12),
    (1e-15, "PFLOPs", 1e15),
    (1e-18, "EFLOPs", 1e18),
    (1e-21, "ZFLOPs", 1e21),
    (1 / 8.64e19, "PF-days", 8.64e19),
)


@dataclass(frozen=True, eq=False)
class FlopFactor:
    """A factor between recorded FLOPs and 6 N D that needs an explanation."""

    value: float
    """f of the larger models."""
    constant: bool
    """Whether f is equal over the sizes."""
    certain: bool
    """Whether it can be no count of training FLOPs."""
    cause: str
    """What is probably counted; empty for unknown."""
    unit: str
    """What --units flops= takes to correct it."""
    apart: Array | None = None
    """Mask of rows in another unit than the rest; then the other fields are about these."""

    @classmethod
    def of(cls, N: Array, D: Array, C: Array) -> "FlopFactor | None":
        """The factor of these runs; None where recorded FLOPs are as expected.

        Args:
            N: Parameters.
            D: Training tokens.
            C: Recorded FLOPs.
        """
        f = C / (6 * N * D)
        per_token = C / (6 * N)
        if _ratio(per_token) < TOY[1] and 0.2 < np.median(per_token) < 5:
            value = float(np.median(f))
            return cls(value, False, True, "FLOPs of one token, not of all", "per-token")
        apart = np.abs(np.log(f / np.median(f))) > np.log(OTHER_ROWS)
        if apart.any():
            return cls(float(np.median(f[apart])), False, True, "", "FLOPs", apart)
        large = np.quantile(N, 2 / 3) <= N
        value = float(np.median(f[large]))
        constant = _ratio(f) <= CONSTANT and N.max() >= SPAN * N.min()
        if constant:
            if abs(value - 1) <= RIGHT:
                return None
            certain = not QUESTIONED[0] <= value <= QUESTIONED[1]
        else:
            bounds = USUAL if np.median(N[large]) >= LARGE else TOY
            if bounds[0] <= value <= bounds[1]:
                return None
            certain = not TOY[0] <= value <= TOY[1]
        cause, scale = _cause(value, MATCH if constant else ROUGH)
        return cls(value, constant, certain, cause, scale)


def _ratio(values: Array) -> float:
    low, high = np.quantile(values, [0.05, 0.95])
    return float(high / low)


def _cause(value: float, tolerance: float) -> tuple[str, str]:
    """The nearest known cause within the tolerance, and the unit or number that corrects it."""
    every = [
        (abs(np.log(value / (unit * count))), name, what, scale * times)
        for unit, name, scale in _UNITS
        for count, what, times in _COUNTS
        if (name, count) != ("FLOPs", 1.0)
    ]
    if abs(np.log(value / 1e3)) < np.log1p(tolerance):
        return "n_params or n_tokens are in thousands (--units n_tokens=k)", "0.001"
    off, name, what, times = min(
        every, key=lambda each: each[0] + 0.01 * (each[2] != "") * (each[1] != "FLOPs")
    )
    if off > np.log1p(tolerance):
        return "", f"{1 / value:.4g}"
    cause = " and ".join(filter(None, (f"the unit is {name}" if name != "FLOPs" else "", what)))
    named = {("FLOPs", 3.0): "forward", ("FLOPs", 2.0): "MACs"}
    unit = named.get((name, times)) or (name if not what else f"{times:.10g}")
    return cause, unit
