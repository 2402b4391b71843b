"""A budget in anybody's words, as training FLOPs.

    C = PF-days 8.64e19
    C = devices days 86400 peak MFU
    C = dollars / price 3600 peak MFU

C training FLOPs; peak of one device, dense, FLOP/s; MFU share of the peak that the model's own
FLOPs reach, 0 to 1; price in dollars per device and hour. MFU is measured or stated, and never
assumed here: half of it is half of the budget.

Source: a PF-day, Kaplan et al. 2020, arXiv:2001.08361, section 1.3.
Not here: a loss as the budget (constrained.py), the way back to hours and money (cost.py).
"""

import math
import re
from dataclasses import dataclass
from typing import Any

from scalelab.accelerators import Accelerator
from scalelab.errors import PlanError
from scalelab.units import sci

PF_DAY = 1e15 * 86400  # FLOPs
PLAUSIBLE = "0.38 to 0.43 (Llama 3 405B on H100s, Grattafiori et al. 2024, arXiv:2407.21783)"


@dataclass(frozen=True)
class Mfu:
    """Share of the dense peak that a model's own FLOPs reach, and who says so."""

    value: float
    origin: str = "stated"
    """ "stated", or what it was measured on."""

    def __post_init__(self) -> None:
        if not 0 < self.value <= 1:
            raise PlanError(
                f"an MFU of {self.value:g}",
                where="the budget of the plan",
                fix=f"name a share above 0 and up to 1, such as {PLAUSIBLE}",
            )

    def __str__(self) -> str:
        return f"MFU {self.value:.3g} ({self.origin})"


@dataclass(frozen=True)
class Budget:
    """Training FLOPs, and how they were said."""

    flops: float
    words: str
    """The whole chain, for eyes."""
    devices: int | None = None
    days: float | None = None
    accelerator: Accelerator | None = None
    mfu: Mfu | None = None
    dollars: float | None = None

    def __str__(self) -> str:
        return self.words

    def to_json(self) -> dict[str, Any]:
        """The record as JSON types; only what was said."""
        said = {
            "gpus": self.devices,
            "days": self.days,
            "accelerator": self.accelerator and self.accelerator.name,
            "mfu": self.mfu and self.mfu.value,
            "mfu_origin": self.mfu and self.mfu.origin,
            "dollars": self.dollars,
        }
        return {
            "flops": self.flops,
            "words": self.words,
            **{k: v for k, v in said.items() if v is not None},
        }


def from_flops(flops: float) -> Budget:
    """FLOPs as they are. Raises PlanError where they are not positive and finite."""
    _positive(flops=flops)
    return Budget(flops, f"{sci(flops)} FLOPs = {_count(flops / PF_DAY)} PF-days")


def from_pf_days(pf_days: float) -> Budget:
    """Days of 1e15 FLOP/s. Raises PlanError where they are not positive and finite."""
    _positive(pf_days=pf_days)
    flops = pf_days * PF_DAY
    return Budget(flops, f"{pf_days:,g} PF-days x {sci(PF_DAY)} = {sci(flops)} FLOPs")


def from_devices(devices: int, days: float, accelerator: Accelerator, mfu: Mfu | None) -> Budget:
    """What so many devices do in so many days.

    Raises:
        PlanError: A figure that cannot be, or no MFU.
    """
    _whole(devices)
    _positive(days=days)
    mfu = needed(mfu)
    flops = devices * days * 86400 * accelerator.peak_flops_per_s * mfu.value
    words = (
        f"{devices:,} x {accelerator.name} x {days:g} days x "
        f"{sci(accelerator.peak_flops_per_s)} FLOP/s{_doubt(accelerator)} x {mfu} = "
        f"{sci(flops)} FLOPs"
    )
    return Budget(flops, words, devices, days, accelerator, mfu)


def from_dollars(
    dollars: float, price: float | None, accelerator: Accelerator, mfu: Mfu | None
) -> Budget:
    """What so many dollars rent.

    Args:
        dollars: The whole budget.
        price: Dollars per device and hour; None is unknown, and refused.
        accelerator: What is rented.
        mfu: What it reaches.

    Raises:
        PlanError: A figure that cannot be, no price, or no MFU.
    """
    if price is None:
        raise PlanError(
            f"the price of {accelerator.name} is unknown, so ${dollars:,.10g} buy an unknown "
            "number of hours",
            where="the rates of the plan",
            fix="name a rates file with its price, or give the budget in FLOPs",
        )
    _positive(dollars=dollars, price=price)
    mfu = needed(mfu)
    hours = dollars / price
    flops = hours * 3600 * accelerator.peak_flops_per_s * mfu.value
    words = (
        f"${dollars:,.10g} / ${price:g} a device-hour = {_count(hours)} {accelerator.name}-hours x "
        f"{sci(accelerator.peak_flops_per_s)} FLOP/s{_doubt(accelerator)} x {mfu} = "
        f"{sci(flops)} FLOPs"
    )
    return Budget(flops, words, accelerator=accelerator, mfu=mfu, dollars=dollars)


def needed(mfu: Mfu | None) -> Mfu:
    """The MFU that there is. Raises PlanError where there is none."""
    if mfu is None:
        raise PlanError(
            "no MFU is known, so a peak says nothing of what gets done",
            where="the budget of the plan",
            fix=f"state what your training reaches: --mfu, plausible is {PLAUSIBLE}; or plan from "
            "a sweep that ran on the same device",
        )
    return mfu


def parse_amount(text: str) -> Budget:
    """A budget as people write it: "5.76e23", "1e25 FLOPs", "300 PF-days", "2.5 ZFLOPs".

    Raises:
        PlanError: It is not a number with one of these units.
    """
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


def _doubt(accelerator: Accelerator) -> str:
    return " (unverified)" if "peak_flops_per_s" in accelerator.unverified else ""


def _whole(devices: int) -> None:
    if devices != devices // 1 or devices < 1:
        raise PlanError(
            f"{devices} devices",
            where="the budget of the plan",
            fix="name a whole number of devices, 1 or more",
        )


def _positive(**figures: float) -> None:
    for name, value in figures.items():
        if not (math.isfinite(value) and value > 0):
            raise PlanError(
                f"{name} is {value}",
                where="the budget of the plan",
                fix=f"name a positive, finite figure for {name}",
            )
