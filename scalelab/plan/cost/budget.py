"""A budget in FLOPs, PF-days, devices and days, or dollars, as training FLOPs.

    C = PF-days 8.64e19
    C = devices days 86400 peak MFU / a
    C = dollars / price 3600 peak MFU / a

C training FLOPs; peak of one device, dense, FLOP/s; MFU share of the peak that the FLOPs of the
model reach, 0 to 1; price in dollars per device and hour; a occupied time over training time
(availability.py). The MFU is measured or stated, and never
assumed here: half the MFU is half the budget.

Source: a PF-day, Kaplan et al. 2020, arXiv:2001.08361, section 1.3.
Not here: a loss as the budget (variants.py), the way back to hours and money (price.py).
"""

import math
import re
from dataclasses import dataclass
from typing import Any

from scalelab.errors import PlanError
from scalelab.hardware.accelerator import Accelerator
from scalelab.plan.cost.availability import NO_LOSS, Availability
from scalelab.units import sci

PF_DAY = 1e15 * 86400  # FLOPs
LEAST_MFU = 1e-6
LARGEST = 1e40  # FLOPs
PLAUSIBLE = "0.38 to 0.43 (Llama 3 405B on H100s, Grattafiori et al. 2024, arXiv:2407.21783)"


@dataclass(frozen=True)
class Mfu:
    """Model FLOPs utilisation: share of the dense peak that the FLOPs of the model reach, and its origin."""

    value: float
    origin: str = "stated"
    """ "stated", or what it was measured or estimated on."""
    status: str = "assumed"
    """Kind: measured or assumed."""

    def __post_init__(self) -> None:
        if not LEAST_MFU <= self.value <= 1:
            raise PlanError(
                f"an MFU of {self.value:g}",
                where="the budget of the plan",
                fix=f"give a share from {LEAST_MFU:g} to 1, such as {PLAUSIBLE}",
            )

    def __str__(self) -> str:
        return f"MFU {self.value:.3g} ({self.origin})"


@dataclass(frozen=True)
class Budget:
    """Training FLOPs, and the form in which they were given."""

    flops: float
    words: str
    """The budget and its computation in words."""
    devices: int | None = None
    days: float | None = None
    accelerator: Accelerator | None = None
    mfu: Mfu | None = None
    dollars: float | None = None

    def __str__(self) -> str:
        return self.words

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON types, without fields that were not given."""
        given = {
            "gpus": self.devices,
            "days": self.days,
            "accelerator": self.accelerator and self.accelerator.name,
            "mfu": self.mfu and self.mfu.value,
            "mfu_origin": self.mfu and self.mfu.origin,
            "dollars": self.dollars,
        }
        return {"flops": self.flops, "words": self.words, **{k: v for k, v in given.items() if v is not None}}


def from_flops(flops: float) -> Budget:
    """Return a budget in FLOPs. Raises PlanError unless it is positive and at most LARGEST."""
    _positive(flops=flops)
    if flops > LARGEST:
        raise PlanError(
            f"a budget of {sci(flops)} FLOPs is implausible",
            where="the budget of the plan",
            fix=f"give FLOPs up to {sci(LARGEST)}, such as 1e21",
        )
    return Budget(flops, f"{sci(flops)} FLOPs = {_count(flops / PF_DAY)} PF-days")


def from_pf_days(pf_days: float) -> Budget:
    """Return a budget in PF-days. Raises PlanError unless it is positive and finite."""
    _positive(pf_days=pf_days)
    flops = from_flops(pf_days * PF_DAY).flops
    return Budget(flops, f"{pf_days:,g} PF-days x {sci(PF_DAY)} = {sci(flops)} FLOPs")


def from_devices(
    devices: int, days: float, accelerator: Accelerator, mfu: Mfu | None, availability: Availability = NO_LOSS
) -> Budget:
    """Return the FLOPs of a number of devices in a number of days.

    Args:
        devices: Number of devices.
        days: Time in days, restarts and lost time included.
        accelerator: Type of device.
        mfu: Model FLOPs utilisation; None is refused.
        availability: Goodput and restart reserve.

    Raises:
        PlanError: A value is out of range, or the MFU is unknown.
    """
    _check_count(devices)
    _positive(days=days)
    mfu = require_mfu(mfu)
    flops = devices * days * 86400 * accelerator.peak_flops_per_s * mfu.value / availability.factor
    words = (
        f"{devices:,} x {accelerator.name} x {days:g} days x "
        f"{sci(accelerator.peak_flops_per_s)} FLOP/s{_unverified(accelerator)} x {mfu}{_lost(availability)} = "
        f"{sci(flops)} FLOPs"
    )
    return Budget(flops, words, devices, days, accelerator, mfu)


def from_dollars(
    dollars: float,
    price: float | None,
    accelerator: Accelerator,
    mfu: Mfu | None,
    availability: Availability = NO_LOSS,
    span: tuple[float, float] | None = None,
) -> Budget:
    """Return the FLOPs of rented devices.

    Args:
        dollars: Cost of the devices in US dollars, restarts and lost time included, people not.
        price: US dollars per device and hour; None is refused.
        accelerator: Type of device.
        mfu: Model FLOPs utilisation; None is refused.
        availability: Goodput and restart reserve.
        span: Lowest and highest price; None where unknown.

    Raises:
        PlanError: A value is out of range, or the price or the MFU is unknown.
    """
    if price is None:
        raise PlanError(
            f"the price of {accelerator.name} is unknown, so the hours for ${dollars:,.10g} are unknown",
            where="the rates of the plan",
            fix="give its price with --price 2.5 or a rates file (--rates), or give the budget in FLOPs (--budget)",
        )
    _positive(dollars=dollars, price=price)
    mfu = require_mfu(mfu)
    hours = dollars / price
    flops = hours * 3600 * accelerator.peak_flops_per_s * mfu.value / availability.factor
    words = (
        f"${dollars:,.10g} / ${price:g} a device-hour = {_count(hours)} {accelerator.name}-hours x "
        f"{sci(accelerator.peak_flops_per_s)} FLOP/s{_unverified(accelerator)} x {mfu}{_lost(availability)} = "
        f"{sci(flops)} FLOPs"
    )
    if span is not None:
        low, high = span
        words += f" ({sci(flops * price / high)} to {sci(flops * price / low)} at ${high:g} to ${low:g})"
    return Budget(flops, words, accelerator=accelerator, mfu=mfu, dollars=dollars)


def require_mfu(mfu: Mfu | None) -> Mfu:
    """Return the MFU. Raises PlanError if it is unknown."""
    if mfu is None:
        raise PlanError(
            "no MFU is known, so training time does not follow from the peak",
            where="the budget of the plan",
            fix=f"give the utilisation of your training with --mfu, for example {PLAUSIBLE}; or plan from "
            "a sweep that ran on the same device",
        )
    return mfu


def parse_amount(amount: str | float) -> Budget:
    """Return the budget of a number or text: 5.76e23, "1e25 FLOPs", "300 PF-days", "2.5 ZFLOPs".

    Raises:
        PlanError: The text is not a number with one of these units.
    """
    text = amount if isinstance(amount, str) else f"{float(amount)!r}"
    found = re.fullmatch(r"\s*([0-9][0-9.,_eE+-]*)\s*([A-Za-z][A-Za-z -]*?)?\s*", text)
    unit = (found[2] or "flops").lower().replace("-", "").replace(" ", "") if found else ""
    scale = {"pfday": PF_DAY, "petaflopday": PF_DAY, "flop": 1.0, "eflop": 1e18, "zflop": 1e21}
    scale |= {"yflop": 1e24}
    factor = scale.get(unit.removesuffix("s"))
    try:
        value = float(re.sub(r"(?<=\d)[,_](?=\d{3})", "", found[1])) if found else None
    except ValueError:
        value = None
    if value is None or factor is None:
        raise PlanError(
            f"cannot read {text!r} as an amount of compute",
            where="the budget of the plan",
            fix='write FLOPs such as 5.76e23, or "300 PF-days"',
        )
    return from_pf_days(value) if factor == PF_DAY else from_flops(value * factor)


def _count(value: float) -> str:
    return f"{value:,.0f}" if 100 <= value < 1e9 else sci(value) if value >= 1e9 else f"{value:.3g}"


def _unverified(accelerator: Accelerator) -> str:
    return " (unverified)" if "peak_flops_per_s" in accelerator.unverified else ""


def _lost(availability: Availability) -> str:
    if availability.factor == 1:
        return ""
    restarts = f" / {1 + availability.reserve:.3g} of restarts" if availability.reserve else ""
    return f" x goodput {availability.goodput:g}{restarts}"


def _check_count(devices: int) -> None:
    if devices != devices // 1 or devices < 1:
        raise PlanError(
            f"{devices} devices",
            where="the budget of the plan",
            fix="give a whole number of devices, 1 or more",
        )


def _positive(**figures: float) -> None:
    for name, value in figures.items():
        if not (math.isfinite(value) and value > 0):
            raise PlanError(
                f"{name} is {value}", where="the budget of the plan", fix=f"give a positive, finite {name}"
            )
