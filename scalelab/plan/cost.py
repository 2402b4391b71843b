"""What training FLOPs come to in device-hours, days, money, energy and carbon.

    device-hours = C / (peak MFU 3600),   days = device-hours / devices / 24
    kWh = device-hours kW PUE,            kg CO2e = kWh (kg CO2e per kWh)

C training FLOPs; peak of one device, dense, FLOP/s. MFU counts the model's FLOPs, so
recomputation makes it fall and not C rise. A price, a power or a carbon intensity that is not
known is None, and so is what would follow from it. A project is more than its final run: the
sweep that found it and the runs that failed are in the total.

Source: the chain of Llama 3 405B, Grattafiori et al. 2024, arXiv:2407.21783; carbon as grid
intensity times energy, Patterson et al. 2021, arXiv:2104.10350.
Not here: peaks (accelerators.py), prices and carbon by day (rates.py).
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from scalelab.errors import PlanError
from scalelab.units import sci

State = Literal["spent", "planned"]
QUANTITIES = ("flops", "pf_days", "device_hours", "dollars", "kwh", "co2_kg")

REPORTING = (  # above so many FLOPs: who asks, and whether it stands
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
class Cost:
    """What one training run takes; None where a rate was not known."""

    flops: float
    pf_days: float
    device_hours: float
    days: float
    dollars: float | None
    kwh: float | None
    co2_kg: float | None


@dataclass(frozen=True)
class CostPart:
    """One part of what a project takes; None is unknown."""

    name: str
    """ "sweep", "failed runs", "final run"."""
    state: State
    status: str
    """measured, assumed, literature: what its hours rest on."""
    flops: float
    device_hours: float | None = None
    dollars: float | None = None
    kwh: float | None = None
    co2_kg: float | None = None

    @property
    def pf_days(self) -> float:
        """Days of 1e15 FLOP/s."""
        return self.flops / (1e15 * 86400)

    @classmethod
    def of(cls, name: str, state: State, status: str, cost: Cost) -> "CostPart":
        """The part that a computed cost makes."""
        return cls(
            name, state, status, cost.flops, cost.device_hours, cost.dollars, cost.kwh, cost.co2_kg
        )


@dataclass(frozen=True)
class ProjectCost:
    """Everything that a project takes, spent and planned, in parts."""

    parts: tuple[CostPart, ...]

    def total(self, quantity: str, state: State | None = None) -> float | None:
        """The sum over parts; None as soon as one of them is unknown.

        Args:
            quantity: One of QUANTITIES.
            state: Only what is spent, or only what is planned; None for both.
        """
        values = self._values(quantity, state)
        return None if None in values else math.fsum(values)

    def known(self, quantity: str, state: State | None = None) -> float:
        """The sum over the parts that are known: a total is no less."""
        return math.fsum(v for v in self._values(quantity, state) if v is not None)

    def unknown(self, quantity: str) -> tuple[str, ...]:
        """The parts for which a quantity is not known."""
        return tuple(p.name for p in self.parts if getattr(p, quantity) is None)

    def _values(self, quantity: str, state: State | None) -> list[float | None]:
        return [getattr(p, quantity) for p in self.parts if state in (None, p.state)]

    def to_json(self) -> dict[str, Any]:
        """Totals, what is unknown in them, and the parts, as JSON types."""
        return {
            **{quantity: self.total(quantity) for quantity in QUANTITIES},
            "unknown": {q: list(self.unknown(q)) for q in QUANTITIES if self.unknown(q)},
            "parts": [{**asdict(p), "pf_days": p.pf_days} for p in self.parts],
        }


def cost(
    flops: float,
    *,
    devices: int,
    peak_flops_per_s: float,
    mfu: float,
    dollars_per_device_hour: float | None = None,
    device_kw: float | None = None,
    pue: float | None = 1.0,
    co2_kg_per_kwh: float | None = None,
) -> Cost:
    """The cost of `flops` on so many devices.

    Args:
        flops: Training compute.
        devices: How many work at once.
        peak_flops_per_s: Dense peak of one.
        mfu: Share of the peak that the model's own FLOPs reach, measured or stated.
        dollars_per_device_hour: Price of one.
        device_kw: Power drawn by one.
        pue: Power of the building over that of its devices, at least 1; None is unknown.
        co2_kg_per_kwh: Of the grid where it stands.

    Raises:
        PlanError: A figure that cannot be.
    """
    _refuse(
        ("flops", flops, 0 < flops < math.inf),
        ("devices", devices, devices >= 1),
        ("peak_flops_per_s", peak_flops_per_s, peak_flops_per_s > 0),
        ("mfu", mfu, 0 < mfu <= 1),
    )
    hours = flops / (peak_flops_per_s * mfu) / 3600
    return Cost(
        flops=flops,
        pf_days=flops / (1e15 * 86400),
        days=hours / devices / 24,
        device_hours=hours,
        **_rated(hours, dollars_per_device_hour, device_kw, pue, co2_kg_per_kwh),
    )


def of_hours(
    name: str,
    state: State,
    *,
    flops: float,
    device_hours: float | None,
    dollars_per_device_hour: float | None = None,
    device_kw: float | None = None,
    pue: float | None = 1.0,
    co2_kg_per_kwh: float | None = None,
) -> CostPart:
    """A part whose device-hours were measured, such as a sweep that has run; rates as in cost.

    Raises:
        PlanError: A figure that cannot be.
    """
    if device_hours is None:
        return CostPart(name, state, "measured", flops)
    rated = _rated(device_hours, dollars_per_device_hour, device_kw, pue, co2_kg_per_kwh)
    return CostPart(name, state, "measured", flops, device_hours, **rated)


def _rated(
    hours: float,
    price: float | None,
    kw: float | None,
    pue: float | None,
    intensity: float | None,
) -> dict[str, float | None]:
    _refuse(
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


def _refuse(*figures: tuple[str, float | None, bool]) -> None:
    for name, value, good in figures:
        if not good:
            raise PlanError(
                f"{name} is {value}",
                where="the budget of the plan",
                fix="name a positive figure; mfu is a share between 0 and 1, pue at least 1",
            )


def reporting(flops: float) -> tuple[str, ...]:
    """Public thresholds that a model of so many training FLOPs passes, each with its source."""
    return tuple(
        f"{sci(flops)} FLOPs is above {sci(bound)}: {who}"
        for bound, who in REPORTING
        if flops > bound
    )
