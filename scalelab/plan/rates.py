"""Prices, power overhead and carbon by day and source: what changes, and so is no constant.

    dollars = device-hours x price,   kWh = device-hours x kW x PUE,   kg CO2e = kWh x intensity

price in US dollars per device and hour; PUE power of the building over that of its devices;
intensity in kg CO2 equivalents per kWh of the grid where it stands (location-based).

rates.yaml beside this file holds the shipped figures; a person's own file takes its place whole.
What neither knows is None.

Not here: device-hours (cost.py), what a device draws (accelerators.py).
"""

import math
from datetime import date
from pathlib import Path

from scalelab.accelerators import ACCELERATORS
from scalelab.config import Config, Name, Positive, read
from scalelab.errors import PlanError
from scalelab.registry import did_you_mean

SHIPPED = Path(__file__).with_name("rates.yaml")


class Price(Config):
    """Of one device for one hour, US dollars."""

    dollars_per_device_hour: Positive
    low: Positive | None = None
    """The cheapest offer of that day; None is unknown."""
    high: Positive | None = None
    source: str
    as_of: date

    def __str__(self) -> str:
        span = "" if self.low is None or self.high is None else f", {self.low:g} to {self.high:g}"
        price = f"${self.dollars_per_device_hour:g} a device-hour"
        return f"{price} [literature, {self.as_of}{span}: {self.source}]"


class Overhead(Config):
    """Power of a building over that of its devices (PUE)."""

    value: Positive
    """1 or more."""
    source: str
    as_of: date

    def __str__(self) -> str:
        return f"PUE {self.value:g} [literature, {self.as_of}: {self.source}]"


class Carbon(Config):
    """Of one grid."""

    kg_per_kwh: Positive
    source: str
    as_of: date

    def __str__(self) -> str:
        return f"{self.kg_per_kwh:g} kg CO2e/kWh [literature, {self.as_of}: {self.source}]"


class Rates(Config):
    """Every dated figure of one file."""

    as_of: date
    """The day on which the file was last looked over."""
    prices: dict[Name, Price] = {}
    """By accelerator."""
    pue: Overhead | None = None
    carbon: dict[Name, Carbon] = {}
    """By region."""

    @classmethod
    def load(cls, path: Path | None = None) -> "Rates":  # type: ignore[override]
        """The shipped rates, or those of a file in their place.

        Raises:
            ConfigError: Naming every mistake of the file with its line.
            PlanError: A price is for an accelerator that nobody knows or lies outside its own
                span, or a PUE is below 1.
        """
        document = read(path or SHIPPED)
        rates = cls.parse(document)
        for name, price in rates.prices.items():
            if name not in ACCELERATORS:
                raise PlanError(
                    f"a price for an unknown accelerator {name!r}"
                    f"{did_you_mean(name.lower(), ACCELERATORS)}",
                    where=document.place(("prices", name)),
                    fix=f"use one of: {', '.join(ACCELERATORS)}",
                )
            low, high = price.low or 0, price.high or math.inf
            if not low <= price.dollars_per_device_hour <= high:
                raise PlanError(
                    f"a price of ${price.dollars_per_device_hour:g} for {name} is outside its own "
                    f"span of {low:g} to {high:g}",
                    where=document.place(("prices", name)),
                    fix="mend low, high or dollars_per_device_hour",
                )
        if rates.pue is not None and rates.pue.value < 1:
            raise PlanError(
                f"a PUE of {rates.pue.value:g}: a building cannot draw less than its devices",
                where=document.place(("pue", "value")),
                fix="name 1 or more",
            )
        return rates

    def price(self, accelerator: str) -> Price | None:
        """Of an accelerator by its name in the table; None where nobody says."""
        return self.prices.get(accelerator)

    def region(self, name: str) -> Carbon:
        """The grid of a region.

        Raises:
            PlanError: The rates do not know it.
        """
        grids = {region.lower(): grid for region, grid in self.carbon.items()}
        key = name.strip().lower()
        if key not in grids:
            raise PlanError(
                f"no carbon intensity for region {name!r}{did_you_mean(key, grids)}",
                where=f"the rates of {self.as_of}",
                fix=f"use one of: {', '.join(self.carbon) or 'none'}; or add it to your own "
                "rates file",
            )
        return grids[key]
