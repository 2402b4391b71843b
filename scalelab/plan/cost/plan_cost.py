"""Costs of a plan: the budget as FLOPs, then hours, money, energy and carbon.

    costs      the sweep and its failed runs as measured, then the final run, restarts and lost
               time, people, and the total

The hours of a final run follow from its training time (training_time.py). Unknown values are None
and shown as unknown.

Not here: the devices and rates (resources.py), the formulas (price.py, budget.py), memory and
layout (placement.py).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from scalelab.errors import PlanError
from scalelab.hardware.accelerators import by_driver_name
from scalelab.plan.choose.constrained_optimum import ConstrainedOptimum
from scalelab.plan.cost.budget import Mfu, from_devices, from_dollars, parse_amount, require_mfu
from scalelab.plan.cost.pipelines import PipelineComparison, pipelines
from scalelab.plan.cost.price import FINAL, LOST, PEOPLE, CostPart, ProjectCost, of_hours
from scalelab.plan.cost.resources import Resources
from scalelab.plan.cost.training_time import TrainingTime
from scalelab.plan.request import WHERE, PlanRequest
from scalelab.plan.request import flag as flag_of
from scalelab.plan.source import PlanSource
from scalelab.units import sci

TRIALS, TRIAL_SHARE = 10, 0.1  # of the baseline; assumed where the request gives no number


@dataclass(frozen=True)
class StatedBudget:
    """Training compute and how the request gave it."""

    flops: float
    words: str
    given: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the request: gpus, days, accelerator, mfu, dollars, loss."""
    choice: ConstrainedOptimum | None = None
    """Least compute for a target loss; None for other budgets."""

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON types."""
        return {"flops": self.flops, "words": self.words, **self.given}


@dataclass(frozen=True)
class PlanCosts:
    """Time, money, energy and carbon of a plan."""

    project: ProjectCost
    resources: Resources
    devices: int
    time: TrainingTime | None
    """Training time of the final run; None where unknown."""
    layout_mfu: Mfu | None
    """MFU that the layout would give; None where unknown."""
    compared: PipelineComparison | None
    """Comparison with tuning on the large model; None without evidence."""
    notes: tuple[str, ...]

    @property
    def status(self) -> str:
        """Kind of the hours of the final run: measured, assumed or unknown."""
        return "unknown" if self.time is None else self.time.status

    @property
    def basis(self) -> str:
        """Source of these hours, in words."""
        unknown = "no device is given (--gpu, --gpus, --mfu) and none was measured"
        return unknown if self.time is None else self.time.basis

    @property
    def days(self) -> float | None:
        """Days of training; None where unknown."""
        return None if self.time is None else self.time.days

    @property
    def calendar_days(self) -> float | None:
        """Days in which the devices are occupied; None where unknown."""
        return None if self.time is None else self.time.days * self.resources.availability.factor

    @property
    def mfu(self) -> Mfu | None:
        """MFU that the time is derived from; None where the peak is unknown."""
        return self.resources.mfu if self.time is None else self.time.mfu

    @property
    def final(self) -> CostPart:
        """Cost of the final run."""
        return next(part for part in self.project.parts if part.name == FINAL)

    def to_json(self) -> dict[str, Any]:
        """Return the costs of the final run, then of the project in parts, as JSON types."""
        final, price = self.final, self.resources.price
        return {
            "pf_days": final.pf_days,
            "gpu_hours": final.device_hours,
            "days": self.days,
            "calendar_days": self.calendar_days,
            "n_steps": self.time and self.time.n_steps,
            "step_s": self.time and self.time.step_s,
            "dollars": final.dollars,
            "dollars_range": final.dollars_range,
            "kwh": final.kwh,
            "co2_kg": final.co2_kg,
            "devices": self.devices,
            "mfu": self.mfu and self.mfu.value,
            "mfu_origin": self.mfu and self.mfu.origin,
            "layout_mfu": self.layout_mfu and self.layout_mfu.value,
            "goodput": self.resources.availability.goodput,
            "restart_reserve": self.resources.availability.reserve,
            "staff": self.resources.staff and asdict(self.resources.staff),
            "dollars_per_device_hour": price and price.dollars_per_device_hour,
            "price_range": price and price.span,
            "price_as_of": price and price.day,
            "rates_as_of": self.resources.rates.as_of.isoformat(),
            "hours_are": self.status,
            "basis": self.basis,
            "project": self.project.to_json(),
        }


def stated_budget(request: PlanRequest, resources: Resources) -> StatedBudget:
    """Return --budget, --gpus with --days, or --dollars as FLOPs.

    Raises:
        PlanError: The budget cannot be read, or a device, a price or an MFU is missing.
    """
    if request.budget is not None:
        found = parse_amount(request.budget)
    else:
        device = resources.accelerator
        if device is None:
            flag = "--days" if request.dollars is None else "--dollars"
            raise PlanError(
                f"{flag} requires --gpu", where=WHERE, fix="add the type of device, such as --gpu h100"
            )
        if request.dollars is not None:
            price = resources.price
            found = from_dollars(
                request.dollars,
                price and price.dollars_per_device_hour,
                device,
                resources.mfu,
                resources.availability,
                price and price.span,
            )
        else:
            found = from_devices(request.gpus, request.days, device, resources.mfu, resources.availability)
    return StatedBudget(found.flops, found.words, found.to_json())


def refuse_unused(request: PlanRequest, resources: Resources) -> None:
    """Refuse settings that have no effect without a device, or without its MFU.

    Raises:
        PlanError: A setting is missing or has no effect.
    """
    if resources.staff is not None and resources.accelerator is None and resources.throughput is None:
        resources.staff.months_of(None)  # refused before the laws are fitted
    if resources.accelerator is not None:
        if request.mfu_inference is not None or request.token_price is not None:
            require_mfu(resources.mfu)  # the price of a FLOP follows from it
        return
    for name in ("mfu", "mfu_inference", "region", "price"):
        _refuse_without_gpu(request, name)
    if resources.throughput is None:
        for name in ("goodput", "restart_reserve"):
            _refuse_without_gpu(request, name)
    if request.gpus is not None:
        raise PlanError(
            f"--gpus {request.gpus:,} requires --gpu",
            where=WHERE,
            fix="add the type of device, such as --gpu h100; for processes on this machine: "
            "--layout replicate=2",
        )


def _refuse_without_gpu(request: PlanRequest, name: str) -> None:
    if getattr(request, name) is not None:
        raise PlanError(
            f"{flag_of(name)} requires --gpu",
            where=WHERE,
            fix=f"add the type of device, such as --gpu h100, or leave {flag_of(name)} out",
        )


def costs_of(
    trials: int | None,
    resources: Resources,
    source: PlanSource | None,
    flops: float,
    devices: int,
    *,
    n_steps: int | None = None,
    layout_mfu: Mfu | None = None,
) -> PlanCosts:
    """Return the costs of a final run and of the evidence for it.

    Args:
        trials: Tuning trials of the baseline; None for TRIALS.
        resources: Devices and rates.
        source: The evidence; None for none.
        flops: Training FLOPs of the final run.
        devices: Number of devices of the final run.
        n_steps: Optimizer steps of the final run; None where the batch is unknown.
        layout_mfu: MFU that its layout would give; None where unknown.

    Raises:
        PlanError: A device is given and neither its MFU nor a layout is known, or the time of the
            staff is unknown.
    """
    time = _training_time(resources, flops, devices, n_steps, layout_mfu)
    parts = (*(() if source is None else _spent(resources, source)), *_planned_parts(resources, flops, time))
    notes = []
    if source is not None and source.spent is None:
        notes.append(
            f"the runs of {source.where} took {sci(source.observations.C.sum())} FLOPs; their time and "
            "cost are unknown and not included"
        )
    return PlanCosts(
        project=ProjectCost(parts),
        resources=resources,
        devices=devices,
        time=time,
        layout_mfu=layout_mfu,
        compared=None if source is None else _compared(trials, source, flops),
        notes=tuple(notes),
    )


def _training_time(
    resources: Resources, flops: float, devices: int, n_steps: int | None, layout_mfu: Mfu | None
) -> TrainingTime | None:
    """The time of the final run: of a stated MFU, of one measured, of the layout, or of a throughput."""
    device, throughput = resources.accelerator, resources.throughput
    if device is not None:
        mfu, is_measured = resources.mfu, resources.mfu is not None and resources.mfu.status == "measured"
        if mfu is None or (is_measured and layout_mfu is not None and not resources.fixes_budget):
            mfu = layout_mfu
        mfu = require_mfu(mfu)
        rate = device.peak_flops_per_s * mfu.value
        return TrainingTime(flops, devices, rate, mfu.status, f"{device.name} at {mfu}", mfu, n_steps)
    if throughput is not None:
        basis = f"{sci(throughput.flops_per_s)} FLOP/s, measured on {throughput}"
        return TrainingTime(flops, devices, throughput.flops_per_s, "measured", basis, n_steps=n_steps)
    return None


def _planned_parts(resources: Resources, flops: float, time: TrainingTime | None) -> tuple[CostPart, ...]:
    """Costs of the final run, of restarts and lost time, and of people."""
    parts = [CostPart(FINAL, "planned", "unknown", flops)]
    days = None
    if time is not None:
        rates, lost = resources.rated(resources.accelerator), resources.availability
        hours, days = time.device_hours, time.days * lost.factor
        final = of_hours(FINAL, "planned", flops=flops, device_hours=hours, **rates)
        parts = [replace(final, status=time.status)]
        if lost.factor > 1:
            more = of_hours(
                LOST, "planned", flops=flops * lost.reserve, device_hours=hours * (lost.factor - 1), **rates
            )
            parts.append(replace(more, status="assumed"))
    if resources.staff is not None:
        dollars = resources.staff.dollars(days)
        parts.append(CostPart(PEOPLE, "planned", "assumed", 0.0, 0.0, dollars, 0.0, 0.0))
    return tuple(parts)


def _spent(resources: Resources, source: PlanSource) -> tuple[CostPart, ...]:
    """Costs of the sweep: its finished runs, and those that diverged or failed."""
    spent = source.spent
    if spent is None:
        return ()
    rates = resources.rated(by_driver_name(spent.device))
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
        parts.append(of_hours("failed runs", "spent", flops=spent.lost_flops, device_hours=lost, **rates))
    return tuple(parts)


def _compared(trials: int | None, source: PlanSource, flops: float) -> PipelineComparison:
    sweep = float(source.observations.C.sum()) if source.spent is None else source.spent.flops
    return pipelines(
        sweep + flops, sweep_flops=sweep, trials=TRIALS if trials is None else trials, trial_share=TRIAL_SHARE
    )
