"""What training FLOPs come to in device-hours, days, money, energy and carbon.

    device-hours = C / (peak MFU 3600),   days = device-hours / devices / 24
    kWh = device-hours kW PUE,            kg CO2 = kWh (kg CO2 per kWh)

MFU counts the model's FLOPs, so recomputation makes it fall and not C rise. Peaks are dense
ones (units.py). A price, a power or a carbon intensity that is not known is None, and so is
what would follow from it.

Source: the chain of Llama 3 405B, Grattafiori et al. 2024, arXiv:2407.21783; carbon as grid
intensity times energy, Patterson et al. 2021, arXiv:2104.10350.
"""

from dataclasses import dataclass

from scalelab.errors import PlanError


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


def cost(
    flops: float,
    *,
    devices: int,
    peak_flops_per_s: float,
    mfu: float,
    dollars_per_device_hour: float | None = None,
    device_kw: float | None = None,
    pue: float = 1.0,
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
        pue: Power of the building over that of its devices, at least 1.
        co2_kg_per_kwh: Of the grid where it stands.

    Raises:
        PlanError: A figure that cannot be.
    """
    for name, value, good in (
        ("flops", flops, flops > 0),
        ("devices", devices, devices >= 1),
        ("peak_flops_per_s", peak_flops_per_s, peak_flops_per_s > 0),
        ("mfu", mfu, 0 < mfu <= 1),
        ("pue", pue, pue >= 1),
    ):
        if not good:
            raise PlanError(
                f"{name} is {value}",
                where="the budget of the plan",
                fix="name a positive figure; mfu is a share between 0 and 1, pue at least 1",
            )
    hours = flops / (peak_flops_per_s * mfu) / 3600
    kwh = None if device_kw is None else hours * device_kw * pue
    return Cost(
        flops=flops,
        pf_days=flops / (1e15 * 86400),
        device_hours=hours,
        days=hours / devices / 24,
        dollars=None if dollars_per_device_hour is None else hours * dollars_per_device_hour,
        kwh=kwh,
        co2_kg=None if kwh is None or co2_kg_per_kwh is None else kwh * co2_kg_per_kwh,
    )
