"""Cost of device-hours: money, energy and carbon.

    dollars = device-hours x price
    kWh = device-hours kW PUE,            kg CO2e = kWh (kg CO2e per kWh)

A price, a power or a carbon intensity that is unknown is None, and so is whatever would follow from
it. The total of a project includes the final run, the sweep and its failed runs.

Source: the chain of Llama 3 405B, Grattafiori et al. 2024, arXiv:2407.21783; carbon as grid
intensity times energy, Patterson et al. 2021, arXiv:2104.10350.
Not here: device-hours (training_time.py), prices and carbon by day (rates.py).
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from scalelab.errors import PlanError
from scalelab.units import sci

State = Literal["spent", "planned"]
FINAL, LOST, PEOPLE = "final run", "restarts and lost time", "people"
"""Names of the planned parts of a project."""
QUANTITIES = ("flops", "pf_days", "device_hours", "dollars", "kwh", "co2_kg")

REPORTING = (  # threshold in FLOPs, rule and its status
    (
        1e25,
        "the EU presumes systemic risk in a general-purpose model: Regulation (EU) 2024/1689, "
        "article 51(2), in force",
    ),
    (
        1e26,
        "the US asked for a report: Executive Order 14110 of 2023-10-30, section 4.2(b), rescinded "
        "on 2025-01-20; California's SB 53 has the same threshold, in force since January 2026 "
        "(unverified)",
    ),
)


@dataclass(frozen=True)
class CostPart:
    """Cost of one part of a project; None where unknown."""

    name: str
    """One of "sweep", "failed runs", FINAL, LOST, PEOPLE."""
    state: State
    status: str
    """Kind of the hours: measured, assumed or literature."""
    flops: float
    device_hours: float | None = None
    dollars: float | None = None
    kwh: float | None = None
    co2_kg: float | None = None
    dollars_range: tuple[float, float] | None = None
    """Dollars at the lowest and highest price; None where the price has no range."""

    @property
    def pf_days(self) -> float:
        """FLOPs in days of 1e15 FLOP/s."""
        return self.flops / (1e15 * 86400)


@dataclass(frozen=True)
class ProjectCost:
    """Cost of a project in parts, spent and planned."""

    parts: tuple[CostPart, ...]

    def total(self, quantity: str, state: State | None = None) -> float | None:
        """Return the sum over parts; None if a part is unknown.

        Args:
            quantity: One of QUANTITIES.
            state: Parts to sum, spent or planned; None for both.
        """
        values = self._values(quantity, state)
        return None if None in values else math.fsum(values)

    def known(self, quantity: str, state: State | None = None) -> float:
        """Return the sum over the parts that are known, a lower bound of the total."""
        return math.fsum(v for v in self._values(quantity, state) if v is not None)

    def dollars_range(self) -> tuple[float, float] | None:
        """Return the total at the lowest and highest prices; None if a part is unknown or none has a range.

        A part whose price has no range counts at its price in both.
        """
        ranges = [p.dollars_range for p in self.parts]
        if self.total("dollars") is None or not any(ranges):
            return None
        both = [span or (p.dollars, p.dollars) for p, span in zip(self.parts, ranges, strict=True)]
        return math.fsum(low for low, _ in both), math.fsum(high for _, high in both)

    def unknown(self, quantity: str) -> tuple[str, ...]:
        """Return the names of the parts for which a quantity is unknown."""
        return tuple(p.name for p in self.parts if getattr(p, quantity) is None)

    def _values(self, quantity: str, state: State | None) -> list[float | None]:
        return [getattr(p, quantity) for p in self.parts if state in (None, p.state)]

    def to_json(self) -> dict[str, Any]:
        """Return totals, the unknown parts of each, and the parts, as JSON types."""
        return {
            **{quantity: self.total(quantity) for quantity in QUANTITIES},
            "dollars_range": self.dollars_range(),
            "unknown": {q: list(self.unknown(q)) for q in QUANTITIES if self.unknown(q)},
            "parts": [{**asdict(p), "pf_days": p.pf_days} for p in self.parts],
        }


def of_hours(
    name: str,
    state: State,
    *,
    flops: float,
    device_hours: float | None,
    dollars_per_device_hour: float | None = None,
    price_range: tuple[float, float] | None = None,
    device_kw: float | None = None,
    pue: float | None = 1.0,
    co2_kg_per_kwh: float | None = None,
) -> CostPart:
    """Return the cost of a part from its device-hours; the status is "measured".

    Args:
        name: Name of the part.
        state: Whether the cost is spent or planned.
        flops: Training FLOPs.
        device_hours: Device-hours; None for unknown.
        dollars_per_device_hour: US dollars per device and hour; None for unknown.
        price_range: Lowest and highest price; None for unknown.
        device_kw: Power of one device, kW; None for unknown.
        pue: Power of the building over that of its devices, at least 1; None for unknown.
        co2_kg_per_kwh: Carbon intensity of the grid; None for unknown.

    Raises:
        PlanError: A value is out of range.
    """
    if device_hours is None:
        return CostPart(name, state, "measured", flops)
    rated = _apply_rates(device_hours, dollars_per_device_hour, device_kw, pue, co2_kg_per_kwh)
    span = price_range and (device_hours * price_range[0], device_hours * price_range[1])
    return CostPart(name, state, "measured", flops, device_hours, **rated, dollars_range=span)


def _apply_rates(
    hours: float, price: float | None, kw: float | None, pue: float | None, intensity: float | None
) -> dict[str, float | None]:
    _check(
        ("device_hours", hours, 0 <= hours < math.inf),
        ("dollars_per_device_hour", price, price is None or 0 <= price < math.inf),
        ("device_kw", kw, kw is None or 0 <= kw < math.inf),
        ("pue", pue, pue is None or 1 <= pue < math.inf),
        ("co2_kg_per_kwh", intensity, intensity is None or 0 <= intensity < math.inf),
    )
    kwh = None if kw is None or pue is None else hours * kw * pue
    return {
        "dollars": None if price is None else hours * price,
        "kwh": kwh,
        "co2_kg": None if kwh is None or intensity is None else kwh * intensity,
    }


def _check(*figures: tuple[str, float | None, bool]) -> None:
    for name, value, good in figures:
        if not good:
            raise PlanError(
                f"{name} is {value}",
                where="the budget of the plan",
                fix="give 0 or a positive number; pue is at least 1",
            )


def reporting(flops: float) -> tuple[str, ...]:
    """Return the public reporting thresholds that training FLOPs exceed, each with its source."""
    return tuple(
        f"{sci(flops)} FLOPs is above {sci(bound)}: {who}" for bound, who in REPORTING if flops > bound
    )
