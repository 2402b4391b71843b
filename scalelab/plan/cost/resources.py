"""Resources of a plan: the devices, their number and MFU, the rates, the staff.

Not here: what they cost (plan_cost.py).
"""

from dataclasses import dataclass, replace
from typing import Any

from scalelab.hardware.accelerator import Accelerator
from scalelab.hardware.accelerators import by_driver_name
from scalelab.plan.choose.inference_cost import InferencePrices
from scalelab.plan.cost.availability import NO_LOSS, Availability
from scalelab.plan.cost.budget import Mfu
from scalelab.plan.cost.rates import DevicePrice, GridCarbon, Rates, StatedPrice, stated_price
from scalelab.plan.cost.staff import Staff
from scalelab.plan.request import PlanRequest
from scalelab.plan.source import MeasuredThroughput, PlanSource


@dataclass(frozen=True)
class Resources:
    """Devices to train on and their rates; None where something is unknown."""

    rates: Rates
    accelerator: Accelerator | None = None
    devices: int | None = None
    mfu: Mfu | None = None
    carbon: GridCarbon | None = None
    throughput: MeasuredThroughput | None = None
    """Throughput of the sweep on its own device."""
    availability: Availability = NO_LOSS
    staff: Staff | None = None
    fixes_budget: bool = False
    """Whether the budget in FLOPs was computed from these devices and their MFU."""
    stated_price: StatedPrice | None = None
    """Price of the request, in place of that of the rates."""

    @classmethod
    def of(cls, request: PlanRequest) -> "Resources":
        """Return the resources of a request.

        Raises:
            PlanError: The accelerator or the region is unknown, or a value is out of range.
        """
        rates = Rates.load(request.rates)
        device = None if request.gpu is None else rates.accelerator(request.gpu)
        mfu = None if request.mfu is None else Mfu(request.mfu)
        carbon = None if request.region is None else rates.region(request.region)
        return cls(
            rates,
            device,
            request.gpus,
            mfu,
            carbon,
            fixes_budget=request.days is not None or request.dollars is not None,
            availability=Availability.of(request.goodput, request.restart_reserve),
            staff=None
            if request.staff is None
            else Staff(request.staff, request.salary, request.staff_months),
            stated_price=None if request.price is None else stated_price(request.price),
        )

    def on(self, source: PlanSource) -> "Resources":
        """Return these resources, completed with the device and throughput of the evidence."""
        throughput = source.throughput
        if throughput is None:
            return self
        own = by_driver_name(throughput.device)
        device = self.accelerator or own
        mfu = self.mfu
        if mfu is None and device is not None and device == own and throughput.mfu is not None:
            mfu = Mfu(throughput.mfu, f"measured on {throughput}", "measured")
        return replace(self, accelerator=device, mfu=mfu, throughput=throughput)

    @property
    def price(self) -> DevicePrice | None:
        """Price of one device for one hour; None where unknown."""
        return None if self.accelerator is None else self._price_of(self.accelerator)

    def _price_of(self, device: Accelerator) -> DevicePrice | None:
        if self.stated_price is not None and device == self.accelerator:
            return self.stated_price
        return self.rates.price(device.name)

    @property
    def dollars_per_flop(self) -> float | None:
        """US dollars for one FLOP of training; None where the price or the MFU is unknown."""
        if self.price is None or self.mfu is None:
            return None
        hour = 3600 * self.accelerator.peak_flops_per_s * self.mfu.value
        return self.price.dollars_per_device_hour / hour

    def prices(self, mfu_inference: float | None) -> InferencePrices | None:
        """Return the prices of FLOPs in training and in use; None where a price or an MFU is unknown."""
        if mfu_inference is None or self.price is None or self.mfu is None:
            return None
        return InferencePrices.of(
            dollars_per_device_hour=self.price.dollars_per_device_hour,
            peak_flops_per_s=self.accelerator.peak_flops_per_s,
            mfu_training=self.mfu.value,
            mfu_inference=mfu_inference,
        )

    def rated(self, device: Accelerator | None) -> dict[str, Any]:
        """Return price, power, overhead and carbon of a device, as arguments of `cost`."""
        price = None if device is None else self._price_of(device)
        power = None if device is None else device.power_w
        return {
            "dollars_per_device_hour": price and price.dollars_per_device_hour,
            "price_range": price and price.span,
            "device_kw": None if power is None else power / 1000,
            "pue": self.rates.pue and self.rates.pue.value,
            "co2_kg_per_kwh": self.carbon and self.carbon.kg_per_kwh,
        }
