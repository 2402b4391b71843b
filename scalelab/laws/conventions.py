"""The same runs under every way of counting parameters and FLOPs, fitted side by side.

Which N and which C are meant moves the exponent more than any noise: counting without
embeddings and without the head raised a from .50 to .73 and more.

Source: Porian et al. 2024, arXiv:2406.19146; Pearce & Song 2024, arXiv:2406.12907.

Not here: turning one count into another by formula (conversion.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scalelab.errors import FitError
from scalelab.laws import LAWS
from scalelab.laws.interval import Interval, trusted
from scalelab.laws.observations import Observations


@dataclass(frozen=True, eq=False)
class Convention:
    """One way of counting, and the runs counted so."""

    param_count: str
    flop_count: str
    runs: Observations


@dataclass(frozen=True)
class Row:
    """One law under one convention."""

    param_count: str
    flop_count: str
    law: str
    a: float | None
    """Exponent of N*; None where the law was refused."""
    b: float | None
    interval: Interval
    """Of a, from redrawn evidence."""
    refused: str | None

    def to_json(self) -> dict[str, Any]:
        """The record as JSON types."""
        return dict(self.__dict__)


def compare(
    conventions: Sequence[Convention],
    laws: Sequence[str],
    *,
    replicates: int,
    level: float,
    seed: int = 0,
) -> tuple[Row, ...]:
    """Every law that allots compute, under every convention; refusals are rows too."""
    rows = []
    for law in laws:
        for c in conventions:
            a = b = interval = refused = None
            try:
                fit = LAWS[law]().fit(c.runs)
            except FitError as error:
                refused = error.problem
            else:
                if not fit.exponents:
                    continue
                a, b = fit.exponents["a"], fit.exponents["b"]
                drawn = fit.replicates(replicates, seed) if replicates else None
                interval = None if drawn is None else trusted(drawn, drawn.values["a"], level)
                refused = fit.broken[0] if fit.broken else None
            rows.append(Row(c.param_count, c.flop_count, law, a, b, interval, refused))
    return tuple(rows)


def comparison_text(rows: Sequence[Row], level: float) -> str:
    """The table for a terminal and a report."""
    lines = [
        f"How the count moves the exponent [fitted]: N* ~ C^a, {level:.0%} intervals of the noise",
        f"  {'N is':16} {'C is':7} {'law':14} {'a':>6}  {'interval':18} {'b':>6}",
    ]
    for r in rows:
        a, b = (f"{v:6.3f}" if v is not None else f"{'-':>6}" for v in (r.a, r.b))
        ends = "" if r.interval is None else f"[{r.interval[0]:.3f}, {r.interval[1]:.3f}]"
        why = f"  {r.refused}" if r.refused else ""
        lines.append(
            f"  {r.param_count:16} {r.flop_count:7} {r.law:14} {a}  {ends:18} {b}{why}".rstrip()
        )
    moved = [r.a for r in rows if r.a is not None and r.refused is None]
    if moved:
        lines.append(f"  a lies between {min(moved):.3f} and {max(moved):.3f}: say which you mean.")
    return "\n".join(lines)
