"""What a plan takes: the budget as it was said, hours, money, energy, carbon, memory, a layout.

    means      devices, how many, what they reach (MFU), and the dated rates
    costs      the sweep's own spend and its failed runs, then the final run, and the total

On a device whose peak is known the hours of a final run follow from the MFU, stated or measured by
the sweep on the same device. On any other they follow from the FLOPs per second that the sweep's
largest runs reached there. What is not known is None and shown as unknown.

Not here: the formulas (plan/cost.py, budget.py, memory.py, layout.py).
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from scalelab.accelerators import Accelerator, accelerator, by_driver_name
from scalelab.errors import PlanError
from scalelab.laws.lawtext import wrapped
from scalelab.plan.budget import Mfu, from_devices, from_dollars, needed, parse_amount
from scalelab.plan.choice import Choice
from scalelab.plan.constrained import Prices
from scalelab.plan.cost import Cost, CostPart, ProjectCost, cost, of_hours, reporting
from scalelab.plan.pipelines import Pipelines, pipelines
from scalelab.plan.rates import Carbon, Price, Rates
from scalelab.report.plan_source import Pace, Source
from scalelab.units import duration, sci, si

TRIALS, TRIAL_SHARE = 10, 0.1  # of the old pipeline, assumed where --trials says nothing


@dataclass(frozen=True)
class Said:
    """A budget: FLOPs, and how they were said."""

    flops: float
    words: str
    given: Mapping[str, Any] = field(default_factory=dict)
    """gpus, days, accelerator, mfu, dollars, loss: whatever of it was named."""
    choice: Choice | None = None
    """The answer to a target loss."""

    def to_json(self) -> dict[str, Any]:
        """The record as JSON types."""
        return {"flops": self.flops, "words": self.words, **self.given}


@dataclass(frozen=True)
class Means:
    """What there is to train with; None where it is not known."""

    rates: Rates
    accelerator: Accelerator | None = None
    devices: int | None = None
    mfu: Mfu | None = None
    carbon: Carbon | None = None
    pace: Pace | None = None
    """Of the sweep, on its own device."""

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Means":
        """What the flags say.

        Raises:
            PlanError: An accelerator, a region or a figure that nobody knows, or half of one.
        """
        rates = Rates.load(args.rates)
        device = None if args.gpu is None else accelerator(args.gpu)
        mfu = None if args.mfu is None else Mfu(args.mfu)
        carbon = None if args.region is None else rates.region(args.region)
        return cls(rates, device, args.gpus, mfu, carbon)

    def on(self, source: Source) -> "Means":
        """The same with what a sweep's own device is and does, where no flag says otherwise."""
        pace = source.pace
        if pace is None:
            return self
        own = by_driver_name(pace.device)
        device = self.accelerator or own
        mfu = self.mfu
        if mfu is None and device is not None and device == own and pace.mfu is not None:
            mfu = Mfu(pace.mfu, f"measured on {pace}")
        return replace(self, accelerator=device, mfu=mfu, pace=pace)

    @property
    def price(self) -> Price | None:
        """Of one device and hour."""
        return None if self.accelerator is None else self.rates.price(self.accelerator.name)

    @property
    def dollars_per_flop(self) -> float | None:
        """Of training."""
        if self.price is None or self.mfu is None:
            return None
        hour = 3600 * self.accelerator.peak_flops_per_s * self.mfu.value
        return self.price.dollars_per_device_hour / hour

    def prices(self, mfu_inference: float | None) -> Prices | None:
        """Of FLOPs in training and in use; None where a price or an MFU is not known."""
        if mfu_inference is None or self.price is None or self.mfu is None:
            return None
        return Prices.of(
            dollars_per_device_hour=self.price.dollars_per_device_hour,
            peak_flops_per_s=self.accelerator.peak_flops_per_s,
            mfu_training=self.mfu.value,
            mfu_inference=mfu_inference,
        )

    def rated(self, device: Accelerator | None) -> dict[str, float | None]:
        """Price, power, overhead and carbon of a device, by the names of cost()."""
        price = None if device is None else self.rates.price(device.name)
        power = None if device is None else device.power_w
        return {
            "dollars_per_device_hour": price and price.dollars_per_device_hour,
            "device_kw": None if power is None else power / 1000,
            "pue": self.rates.pue and self.rates.pue.value,
            "co2_kg_per_kwh": self.carbon and self.carbon.kg_per_kwh,
        }


@dataclass(frozen=True)
class Costs:
    """What a plan takes."""

    project: ProjectCost
    status: str
    """What the hours of the final run rest on: measured, assumed or unknown."""
    basis: str
    """The same in words."""
    means: Means
    devices: int
    days: float | None
    compared: Pipelines | None
    """The old pipeline beside the new."""
    notes: tuple[str, ...]

    @property
    def final(self) -> CostPart:
        """The final run."""
        return self.project.parts[-1]

    def to_json(self) -> dict[str, Any]:
        """Of the final run, then of the project in parts."""
        final, price = self.final, self.means.price
        return {
            "pf_days": final.pf_days,
            "gpu_hours": final.device_hours,
            "days": self.days,
            "dollars": final.dollars,
            "kwh": final.kwh,
            "co2_kg": final.co2_kg,
            "devices": self.devices,
            "mfu": self.means.mfu and self.means.mfu.value,
            "mfu_origin": self.means.mfu and self.means.mfu.origin,
            "dollars_per_device_hour": price and price.dollars_per_device_hour,
            "price_as_of": price and price.as_of.isoformat(),
            "rates_as_of": self.means.rates.as_of.isoformat(),
            "hours_are": self.status,
            "basis": self.basis,
            "project": self.project.to_json(),
        }

    def blocks(self) -> list[str]:
        """The words, a block a thought."""
        found = [self._cost()]
        return [*found, self._old()] if self.compared is not None else found

    def _cost(self) -> str:
        project, many = self.project, len(self.project.parts) > 1
        lines = [
            f"Time, money, energy [hours of the final run {self.status}]",
            f"  {'':14} {'':8} {'FLOPs':>8} {'PF-days':>8} {'hours':>8} {'dollars':>9} {'kWh':>8} "
            f"{'kg CO2e':>8}",
        ]
        for part in project.parts:
            cells = (part.device_hours, part.dollars, part.kwh, part.co2_kg)
            lines.append(_row(part.name, part.state, part.flops, part.pf_days, cells))
        if many:
            keys = ("device_hours", "dollars", "kwh", "co2_kg")
            totals = tuple(project.total(key) for key in keys)
            flops, pf_days = project.total("flops"), project.total("pf_days")
            lines.append(_row("project", "", flops, pf_days, totals))
        if self.days is not None:
            devices = f"{self.devices:,} devices" if self.devices > 1 else "one device"
            took = duration(86400 * self.days)
            lines.append(wrapped(f"the final run takes {took} on {devices}: {self.basis}"))
        else:
            lines.append(wrapped(f"how long it takes is unknown: {self.basis}"))
        means = self.means
        if means.accelerator is not None:
            said = [str(means.accelerator), str(means.price or "price unknown")]
            power = means.accelerator.power_w
            said.append("power unknown" if power is None else f"{power:g} W [literature]")
            said += [str(means.rates.pue or "PUE unknown")]
            said.append(str(means.carbon or "carbon unknown: --region names a grid"))
            lines += [wrapped(text) for text in said]
        lines += [wrapped(said) for said in reporting(self.final.flops)]
        return "\n".join(lines)

    def _old(self) -> str:
        return "\n".join(
            [
                "The old pipeline beside this one [assumed: trials and their length]",
                wrapped(self.compared.words),
            ]
        )


def said_budget(args: argparse.Namespace, means: Means) -> Said:
    """--budget, --gpus with --days, or --dollars as FLOPs.

    Raises:
        PlanError: It cannot be read, or something that it takes is not known.
    """
    if args.budget is not None:
        found = parse_amount(args.budget)
    else:
        device = means.accelerator
        if device is None:
            flag = "--days" if args.dollars is None else "--dollars"
            raise PlanError(
                f"{flag} of which device?",
                where="the flags of the plan",
                fix="name it, such as --gpu h100",
            )
        if args.dollars is not None:
            price = means.price and means.price.dollars_per_device_hour
            found = from_dollars(args.dollars, price, device, means.mfu)
        else:
            found = from_devices(args.gpus, args.days, device, means.mfu)
    return Said(found.flops, found.words, found.to_json())


def costs_of(
    trials: int | None,
    means: Means,
    source: Source | None,
    flops: float,
    devices: int,
) -> Costs:
    """What a final run and the evidence for it take.

    Args:
        trials: Of the old pipeline; None for TRIALS.
        means: What there is to train with.
        source: The evidence; None for none.
        flops: Of the final run.
        devices: That it is spread over.

    Raises:
        PlanError: A device is named and no MFU is known for it.
    """
    final, days, status, basis = _final(means, flops, devices)
    parts = () if source is None else _spent(means, source)
    notes = []
    if source is not None and source.spent is None:
        notes.append(
            f"the runs of {source.where} took {sci(source.observations.C.sum())} FLOPs; what else "
            "they took is not known, and not in the costs"
        )
    return Costs(
        project=ProjectCost((*parts, final)),
        status=status,
        basis=basis,
        means=means,
        devices=devices,
        days=days,
        compared=None if source is None else _compared(trials, source, flops),
        notes=tuple(notes),
    )


def _final(means: Means, flops: float, devices: int) -> tuple[CostPart, float | None, str, str]:
    device, pace = means.accelerator, means.pace
    if device is not None:
        mfu = needed(means.mfu)
        found: Cost = cost(
            flops,
            devices=devices,
            peak_flops_per_s=device.peak_flops_per_s,
            mfu=mfu.value,
            **means.rated(device),
        )
        status = "assumed" if mfu.origin == "stated" else "measured"
        part = CostPart.of("final run", "planned", status, found)
        return part, found.days, status, f"{device.name} at {mfu}"
    if pace is not None:
        hours = flops / pace.flops_per_s / 3600
        part = replace(
            of_hours("final run", "planned", flops=flops, device_hours=hours), status="measured"
        )
        basis = f"{sci(pace.flops_per_s)} FLOP/s, measured on {pace}"
        return part, hours / devices / 24, "measured", basis
    part = CostPart("final run", "planned", "unknown", flops)
    return part, None, "unknown", "no device is named (--gpu, --gpus, --mfu) and none was measured"


def _spent(means: Means, source: Source) -> tuple[CostPart, ...]:
    """What the sweep took: runs that finished, and those that did not."""
    spent = source.spent
    if spent is None:
        return ()
    rates = means.rated(by_driver_name(spent.device))
    parts = [
        of_hours(
            "sweep",
            "spent",
            flops=spent.flops - spent.lost_flops,
            device_hours=(spent.seconds - spent.lost_seconds) / 3600,
            **rates,
        )
    ]
    if spent.lost_runs:
        lost = spent.lost_seconds / 3600
        parts.append(
            of_hours("failed runs", "spent", flops=spent.lost_flops, device_hours=lost, **rates)
        )
    return tuple(parts)


def _compared(trials: int | None, source: Source, flops: float) -> Pipelines:
    sweep = float(source.observations.C.sum()) if source.spent is None else source.spent.flops
    return pipelines(
        sweep + flops,
        sweep_flops=sweep,
        trials=TRIALS if trials is None else trials,
        trial_share=TRIAL_SHARE,
    )


def _row(
    name: str,
    state: str,
    flops: float | None,
    pf_days: float | None,
    cells: tuple[float | None, ...],
) -> str:
    figures = [sci(flops), sci(pf_days), *(si(value) for value in cells)]
    return (
        f"  {name:14} {state:8} {figures[0]:>8} {figures[1]:>8} {figures[2]:>8} "
        f"{figures[3]:>9} {figures[4]:>8} {figures[5]:>8}"
    )
