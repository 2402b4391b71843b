"""Prices, power overhead, carbon intensity and a user's accelerators, each with its source and date.

    dollars = device-hours x price,   kWh = device-hours x kW x PUE,   kg CO2e = kWh x intensity

price in US dollars per device and hour; PUE power of the building over that of its devices;
intensity in kg CO2 equivalents per kWh of the local grid (location-based).

rates.yaml beside this file has the shipped values; a file given by the user replaces it whole.
Values that neither has are None.

Not here: device-hours (price.py), shipped accelerators (hardware/datasheets.py).
"""

import math
import re
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import ClassVar

from scalelab.config import Config, Count, Name, Positive, YamlDocument
from scalelab.errors import PlanError
from scalelab.hardware.accelerator import Accelerator
from scalelab.hardware.accelerators import ACCELERATORS, ALIASES, accelerator, plain_name
from scalelab.registry import did_you_mean
from scalelab.units import sci

SHIPPED = Path(__file__).with_name("rates.yaml")
LARGEST_PRICE = 1e6  # US dollars for one device and hour
PLAUSIBLE: Mapping[str, tuple[float, float, str]] = {
    "peak_flops_per_s": (1e12, 1e17, "FLOP/s of dense bf16, such as 989e12"),
    "memory_bytes": (1e9, 1e13, "bytes, such as 80e9"),
    "bandwidth_bytes_per_s": (1e10, 1e14, "bytes per second, such as 3.35e12"),
    "link_bytes_per_s": (1e9, 1e13, "bytes per second in one direction, such as 450e9"),
    "devices_per_node": (1, 1e5, "devices that the link joins, such as 8"),
    "power_w": (10, 1e4, "watts of one device, such as 700"),
}
"""Lowest and highest plausible value of a described accelerator, and its unit."""


class DescribedAccelerator(Config):
    """An accelerator that a user describes, in the units of hardware/accelerator.py."""

    peak_flops_per_s: Positive
    """Dense bf16, FLOP/s, without sparsity."""
    memory_bytes: Positive
    bandwidth_bytes_per_s: Positive
    """Bandwidth of its memory, bytes per second."""
    link_bytes_per_s: Positive
    """Bandwidth to other devices of its node, bytes per second in one direction."""
    devices_per_node: Count
    """Devices that this link joins."""
    power_w: Positive | None = None
    """Design power, watts; None where unknown."""
    source: str
    as_of: date

    def named(self, name: str) -> Accelerator:
        """Return the accelerator under a name."""
        return Accelerator(
            name,
            (),
            self.peak_flops_per_s,
            self.memory_bytes,
            self.bandwidth_bytes_per_s,
            self.link_bytes_per_s,
            self.devices_per_node,
            self.power_w,
            self.source,
            self.as_of.isoformat(),
        )

    def problems(self) -> Iterator[tuple[str, str, str]]:
        """Return each implausible field with the problem and its fix."""
        for field, (low, high, unit) in PLAUSIBLE.items():
            value = getattr(self, field)
            if value is not None and not low <= value <= high:
                yield field, f"{field} is {value:g}, outside {sci(low)} to {sci(high)}", f"give {unit}"
        if self.link_bytes_per_s > self.bandwidth_bytes_per_s:
            yield (
                "link_bytes_per_s",
                f"link_bytes_per_s is {self.link_bytes_per_s:g}, above the bandwidth of the memory, "
                f"{self.bandwidth_bytes_per_s:g}",
                f"give {PLAUSIBLE['link_bytes_per_s'][2]}",
            )


class DevicePrice(Config):
    """Price of one device for one hour, US dollars."""

    dollars_per_device_hour: Positive
    low: Positive | None = None
    """Lowest offer of that day; None where unknown."""
    high: Positive | None = None
    """Highest offer of that day; None where unknown."""
    source: str
    as_of: date

    @property
    def span(self) -> tuple[float, float] | None:
        """Lowest and highest price; None unless both are known."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    @property
    def words(self) -> str:
        """Price and range, without their source."""
        span = "" if self.span is None else f" (${self.low:g} to ${self.high:g})"
        return f"${self.dollars_per_device_hour:g} a device-hour{span}"

    @property
    def day(self) -> str | None:
        """Day of the source, ISO 8601; None for a price that the request states."""
        return self.as_of.isoformat()

    def __str__(self) -> str:
        return f"{self.words} [literature, {self.as_of}: {self.source}]"


class StatedPrice(DevicePrice):
    """Price that the request states."""

    @property
    def day(self) -> None:
        """No day: the request names none."""
        return None

    def __str__(self) -> str:
        return f"{self.words} [stated, --price]"


class PowerOverhead(Config):
    """Power of a building over that of its devices (PUE)."""

    value: Positive
    """PUE, 1 or more."""
    source: str
    as_of: date

    def __str__(self) -> str:
        return f"PUE {self.value:g} [literature, {self.as_of}: {self.source}]"


class GridCarbon(Config):
    """Carbon intensity of one electricity grid."""

    kg_per_kwh: Positive
    source: str
    as_of: date

    def __str__(self) -> str:
        return f"{self.kg_per_kwh:g} kg CO2e/kWh [literature, {self.as_of}: {self.source}]"


class Rates(Config):
    """Prices, power overhead and carbon intensities of one file, each with its source and date."""

    file_kind: ClassVar[str | None] = "rates"

    as_of: date
    """Day on which the file was last reviewed."""
    prices: dict[Name, DevicePrice] = {}
    """Prices by accelerator."""
    pue: PowerOverhead | None = None
    carbon: dict[Name, GridCarbon] = {}
    """Carbon intensities by region."""
    accelerators: dict[Name, DescribedAccelerator] = {}
    """Further accelerators by name."""

    @classmethod
    def load(cls, path: Path | None = None) -> "Rates":  # type: ignore[override]
        """Return the shipped rates, or those of a file.

        Raises:
            ConfigError: The file is invalid; all errors are reported with their lines.
            PlanError: A price is for an unknown accelerator or outside its own range, the PUE is
                below 1, or an accelerator is implausible or has the name of a shipped one.
        """
        document = cls.read_file(path or SHIPPED)
        rates = cls.parse(document)
        _check_accelerators(rates, document)
        known = [*rates.accelerators, *ACCELERATORS]
        for name, price in rates.prices.items():
            if name not in known:
                raise PlanError(
                    f"a price for an unknown accelerator {name!r}{did_you_mean(name.lower(), known)}",
                    where=document.place(("prices", name)),
                    fix=f"use one of: {', '.join(known)}; or describe it under `accelerators:`",
                )
            low, high = price.low or 0, price.high or math.inf
            if not low <= price.dollars_per_device_hour <= high:
                raise PlanError(
                    f"the price of ${price.dollars_per_device_hour:g} for {name} is outside its own "
                    f"range of {low:g} to {high:g}",
                    where=document.place(("prices", name)),
                    fix="correct low, high or dollars_per_device_hour",
                )
        if rates.pue is not None and rates.pue.value < 1:
            raise PlanError(
                f"a PUE of {rates.pue.value:g}: a building cannot draw less than its devices",
                where=document.place(("pue", "value")),
                fix="give 1 or more",
            )
        return rates

    def accelerator(self, name: str) -> Accelerator:
        """Return the accelerator of a name, described in the file or shipped.

        Raises:
            PlanError: There is no accelerator of that name.
        """
        described = {key: value.named(key) for key, value in self.accelerators.items()}
        return accelerator(name, described)

    def price(self, accelerator: str) -> DevicePrice | None:
        """Return the price of an accelerator; None where it is unknown."""
        return self.prices.get(accelerator)

    def region(self, name: str) -> GridCarbon:
        """Return the carbon intensity of the grid of a region.

        Raises:
            PlanError: The rates do not have the region.
        """
        grids = {region.lower(): grid for region, grid in self.carbon.items()}
        key = name.strip().lower()
        if key not in grids:
            raise PlanError(
                f"no carbon intensity for region {name!r}{did_you_mean(key, grids)}",
                where=f"the rates of {self.as_of}",
                fix=f"use one of: {', '.join(self.carbon) or 'none'}; or add it to your own rates file",
            )
        return grids[key]


def stated_price(text: str | float) -> StatedPrice:
    """Return the price of a number or a range: 2.5, "2.5", "2-3.5"; of a range the middle is used.

    Raises:
        PlanError: The text is neither, or the range descends.
    """
    ends = [text] if isinstance(text, int | float) else re.split(r"(?<=[0-9.])-(?=[0-9.])", text.strip())
    try:
        values = [float(end) for end in ends]
    except ValueError:
        values = []
    good = len(values) in (1, 2) and all(0 < v <= LARGEST_PRICE for v in values) and values == sorted(values)
    if not good:
        raise PlanError(
            f"cannot read {text!r} as a price",
            where="--price",
            fix="give US dollars per device and hour: --price 2.5, or a range from low to high: --price 2-3.5",
        )
    low, high = values[0], values[-1]
    span = {} if len(values) == 1 else {"low": low, "high": high}
    return StatedPrice(dollars_per_device_hour=(low + high) / 2, source="stated", as_of=date.today(), **span)


def _check_accelerators(rates: Rates, document: YamlDocument) -> None:
    shipped = {plain_name(name): name for name in (*ACCELERATORS, *ALIASES)}
    before: dict[str, str] = {}
    for name, described in rates.accelerators.items():
        key = plain_name(name)
        taken, whose = shipped.get(key), "shipped"
        if taken is None:
            taken, whose = before.get(key), "described"
        if taken is not None:
            raise PlanError(
                f"accelerator {name!r} has the name of the {whose} {taken!r}",
                where=document.place(("accelerators", name)),
                fix=f"choose another name, such as my-{taken}",
            )
        before[key] = name
        for field, problem, fix in described.problems():
            raise PlanError(
                f"accelerator {name!r}: {problem}",
                where=document.place(("accelerators", name, field)),
                fix=fix,
            )
