"""Time, money, energy and carbon of a plan as blocks of its Document.

Not here: the numbers (plan/cost/plan_cost.py), memory and layout (memory.py).
"""

from collections.abc import Sequence

from scalelab.plan.cost.plan_cost import PlanCosts
from scalelab.plan.cost.price import reporting
from scalelab.plan.cost.training_time import NOTABLE
from scalelab.report.document import Block, Bullets, Content, Facts, Heading, Number, Paragraph, Table
from scalelab.units import duration, sci, si


def cost_blocks(costs: PlanCosts) -> list[Block]:
    """Return time, money, energy and carbon of a plan."""
    project = costs.project
    keys = ("flops", "pf_days", "device_hours", "dollars", "kwh", "co2_kg")
    rows: list[list[Content]] = [
        [part.name, part.state, *_amounts([getattr(part, key) for key in keys], part.status)]
        for part in project.parts
    ]
    if len(project.parts) > 1:
        rows.append(["project", "", *_amounts([project.total(key) for key in keys], "computed")])
    facts = _time(costs)
    resources = costs.resources
    if resources.accelerator is not None:
        power = resources.accelerator.power_w
        facts += [
            (
                "device",
                f"{resources.accelerator} [literature, {resources.accelerator.dated}: {resources.accelerator.source}]",
            ),
            ("price", str(resources.price or "unknown; set --price")),
            *_price_range(costs),
            ("power", "unknown" if power is None else f"{power:g} W (literature)"),
            ("power overhead", str(resources.rates.pue or "unknown")),
            ("carbon", str(resources.carbon or "unknown; give the grid with --region")),
        ]
    blocks: list[Block] = [
        Heading(f"Time, money, energy (hours of the final run: {costs.status})"),
        Table(
            ["part", "state", "FLOPs", "PF-days", "device-hours", "US dollars", "kWh", "kg CO2e"],
            rows,
            align="llrrrrrr",
            optional=["PF-days", "state"],
        ),
        Facts(facts),
    ]
    if resources.staff is not None:
        facts.append(("people", resources.staff.words(costs.calendar_days)))
    thresholds = list(reporting(costs.final.flops))
    blocks += [Bullets(thresholds)] if thresholds else []
    if costs.compared is not None:
        words = costs.compared.words
        blocks += [
            Heading("Baseline: tuning the large model (assumed: trials and their length)", detail=True),
            Paragraph(f"{words[:1].upper()}{words[1:]}.", detail=True),
        ]
    return blocks


def _time(costs: PlanCosts) -> list[tuple[str, Content]]:
    """Training time, steps and the MFU that they follow from."""
    time = costs.time
    if time is None:
        return [("training time", f"unknown: {costs.basis}")]
    devices = f"{costs.devices:,} devices" if costs.devices > 1 else "one device"
    facts: list[tuple[str, Content]] = [
        ("training time", [Number(duration(time.seconds), costs.status), f" on {devices}: {costs.basis}"])
    ]
    if time.n_steps is not None:
        facts.append(
            ("steps", [f"{time.n_steps:,} of ", Number(_seconds_text(time.step_s), costs.status), " each"])
        )
    layout, used = costs.layout_mfu, time.mfu
    if layout is not None and used is not None and layout != used:
        ratio = used.value / layout.value
        apart = abs(ratio - 1) > NOTABLE
        facts.append(
            (
                "MFU of the layout",
                [
                    Number(f"{layout.value:.3g}", "assumed"),
                    f" ({layout.origin})" + (f"; the MFU above is {ratio:.2g}x that" if apart else ""),
                ],
            )
        )
    lost = costs.resources.availability
    if lost.stated or costs.resources.accelerator is not None:
        days = Number(duration(86400 * costs.calendar_days), "assumed")
        facts.append(("calendar time", [days, f": {lost}"]))
    return facts


def _price_range(costs: PlanCosts) -> list[tuple[str, Content]]:
    """Dollars at the lowest and highest price of the device; empty where the price has no range."""
    final, project = costs.final.dollars_range, costs.project.dollars_range()
    if final is None:
        return []
    low, high = costs.resources.price.span
    words = f"${si(final[0])} to ${si(final[1])} for the final run at ${low:g} to ${high:g} a device-hour"
    if project is not None and len(costs.project.parts) > 1:
        words += f"; ${si(project[0])} to ${si(project[1])} for the project"
    return [("price range", words)]


def _amounts(values: Sequence[float | None], kind: str) -> list[Content]:
    """FLOPs and PF-days, computed; then hours, dollars, kWh and kg CO2e of a kind."""
    flops, pf_days, *others = values
    cells: list[Content] = ["" if v == 0 else Number(sci(v), "computed") for v in (flops, pf_days)]
    cells += ["unknown" if v is None else "" if v == 0 else Number(si(v), kind) for v in others]
    return cells


def _seconds_text(seconds: float) -> str:
    if seconds >= 90:
        return duration(seconds)
    return f"{seconds:.3g} s" if seconds >= 0.1 else f"{1000 * seconds:.3g} ms"
