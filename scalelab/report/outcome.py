"""What came true of a frozen forecast: a page, its figure, and the numbers for programs.

    OUT/
      README.md     the sentence first, then foretold beside measured, then the curve
      outcome.json  schema 1
      course.png .svg   the loss on the way against the band that was frozen before

A forecast is held where the measured loss lies inside the interval that was quoted before the
run. Whether the interval of the noise alone held is told beside it. A run that ended without a
loss leaves its forecast neither held nor missed, and the page says so.

Not here: the ledger (plan/ledger.py), the run itself (launch/final.py).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalelab.files import make_dir, write_json, write_text, writing
from scalelab.laws.interval import Interval
from scalelab.laws.lawtext import between
from scalelab.plan.band import Band
from scalelab.plan.final import Plan
from scalelab.plan.frozen import FrozenForecast
from scalelab.plan.ledger import Outcome
from scalelab.report.painters import Painters
from scalelab.train.spec import RunResult
from scalelab.units import duration, sci, si

SCHEMA = 1
NAMED = ("alarm", "batch_skipped", "went_back", "resume", "lost", "straggler", "out_of_memory")
"""Events of a run that its page counts."""
SHOWN = 8  # alarms that the page quotes


@dataclass(frozen=True)
class Compared:
    """One quantity, foretold or planned and measured; None is unknown."""

    key: str
    name: str
    unit: str
    predicted: float | None
    kind: str
    """What the prediction is: extrapolated, planned, estimated, assumed."""
    actual: float | None
    write: Callable[[float], str]

    @property
    def error(self) -> float | None:
        """Measured over foretold, less one."""
        if self.predicted is None or self.actual is None or self.predicted == 0:
            return None
        return self.actual / self.predicted - 1


@dataclass(frozen=True, eq=False)
class Course:
    """What the figure shows: the loss on the way, and what was foretold of it."""

    n_tokens: float
    """That were planned."""
    measured: Sequence[tuple[float, float]]
    """Validation loss on the way: (n_tokens, loss)."""
    training: Sequence[tuple[float, float]]
    loss: float | None
    """At the end."""
    predicted: float
    quoted: Interval
    level: float
    band: Band | None
    held: bool | None
    reach: float


def write_outcome(
    plan: Plan,
    frozen: FrozenForecast,
    result: RunResult,
    outcome: Outcome,
    events: Iterable[Mapping[str, Any]],
    out: Path,
) -> Path:
    """Write the page, the figure and outcome.json; the page's path.

    Args:
        plan: What was launched.
        frozen: What was foretold of it.
        result: What it came to.
        outcome: The same as the ledger has it.
        events: Of the run's log.
        out: The directory; made if it is not there.
    """
    make_dir(out)
    told = [event for event in events if event["event"] in NAMED]
    rows = compared(plan, frozen, result, outcome)
    write_json(out / "outcome.json", record(plan, frozen, result, outcome, rows, told))
    drawn = _draw(course(frozen, result), out)
    write_text(out / "README.md", page(plan, frozen, result, outcome, rows, told, drawn))
    return out / "README.md"


def outcome_text(plan: Plan, frozen: FrozenForecast, result: RunResult, outcome: Outcome) -> str:
    """What came true, for a terminal."""
    lines = [
        sentence(frozen, outcome),
        "",
        f"  {'':18} {'predicted':>12} {'':13} {'measured':>12} {'error':>8}",
    ]
    for row in compared(plan, frozen, result, outcome):
        lines.append(
            f"  {row.name:18} {_cell(row.predicted, row.write):>12} {f'[{row.kind}]':13} "
            f"{_cell(row.actual, row.write):>12} {_percent(row.error):>8}  {row.unit}".rstrip()
        )
    lines.append(
        f"  loss, {frozen.level:.0%} quoted {between(frozen.quoted, _loss)}, "
        f"by noise alone {between(frozen.statistical, _loss)}: {_noise(outcome)}"
    )
    return "\n".join(lines)


def sentence(frozen: FrozenForecast, outcome: Outcome) -> str:
    """Whether the forecast held, in one honest sentence."""
    quoted = f"the {frozen.level:.0%} interval {between(frozen.quoted, _loss)}"
    where = f"{frozen.reach:.3g}x beyond the evidence"
    if outcome.state == "failed":
        why = f": {outcome.reason}" if outcome.reason else ""
        return (
            f"The run ended without a final loss ({outcome.status}{why}), so the forecast of "
            f"{frozen.loss:.4f} was neither held nor missed."
        )
    said = (
        f"the measured loss is {outcome.loss:.4f} nats per token where {frozen.loss:.4f} was "
        f"foretold {where}, {abs(outcome.error):.2%} {'worse' if outcome.error > 0 else 'better'}"
    )
    if outcome.held is None:
        return f"The forecast had no interval to be judged by: {said}."
    if outcome.held:
        return f"The forecast HELD: {said}, inside {quoted}."
    far = min(abs(outcome.loss - end) for end in frozen.quoted)
    return f"The forecast MISSED: {said}, outside {quoted} by {far:.4f}."


def compared(
    plan: Plan, frozen: FrozenForecast, result: RunResult, outcome: Outcome
) -> list[Compared]:
    """Foretold or planned beside measured, the loss first."""
    cost, devices = plan.cost, plan.layout.devices
    days, price = cost.get("days"), cost.get("dollars_per_device_hour")
    finished = outcome.state != "failed"
    seconds = result.train_s if finished else None
    dollars = None if price is None or seconds is None else price * devices * seconds / 3600
    pace = str(plan.status.get("cost", "assumed"))
    pace = "estimated" if pace == "measured" else pace  # from a pace that was measured
    return [
        Compared(
            "loss", "loss", "nats per token", frozen.loss, "extrapolated",
            outcome.loss if finished else None, _loss,
        ),
        Compared(
            "n_params", "N", f"parameters ({frozen.param_count})", frozen.actual["n_params"],
            "planned", outcome.n_params, si,
        ),
        Compared(
            "n_tokens", "D", "tokens", frozen.actual["n_tokens"], "planned", outcome.n_tokens, si
        ),
        Compared(
            "flops", "C", f"FLOPs ({frozen.flop_count})", frozen.actual["flops"], "planned",
            outcome.flops, lambda v: sci(v, 4),
        ),
        Compared(
            "seconds", "training time", "", None if days is None else 86400.0 * days, pace,
            seconds, duration,
        ),
        Compared(
            "dollars", "cost", "" if price is None else f"at {price:g} dollars a device-hour",
            cost.get("dollars"), "assumed", dollars, lambda v: f"${v:,.2f}",
        ),
    ]  # fmt: skip


def record(
    plan: Plan,
    frozen: FrozenForecast,
    result: RunResult,
    outcome: Outcome,
    rows: Sequence[Compared],
    told: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Schema 1 of outcome.json."""
    return {
        "schema": SCHEMA,
        "plan": plan.name,
        "forecast": frozen.digest,
        "run": result.run,
        "state": outcome.state,
        "status": outcome.status,
        "reason": outcome.reason,
        "sentence": sentence(frozen, outcome),
        "held": outcome.held,
        "held_statistical": outcome.held_statistical,
        "level": frozen.level,
        "quoted": frozen.quoted,
        "statistical": frozen.statistical,
        "reach": frozen.reach,
        "law": frozen.law,
        "compared": {
            row.key: {
                "predicted": row.predicted,
                "predicted_is": row.kind,
                "actual": row.actual,
                "actual_is": "measured",
                "error": row.error,
            }
            for row in rows
        },
        "loss_se": result.loss_se,
        "bpb": result.bpb,
        "device": result.device,
        "precision": result.precision,
        "tokens_per_s": result.tokens_per_s,
        "mfu": result.mfu,
        "layout": result.layout,
        "events": {kind: sum(e["event"] == kind for e in told) for kind in NAMED},
        "interventions": result.interventions,
        "left_band": _left(frozen, result),
        "ended": outcome.ended,
    }


def course(frozen: FrozenForecast, result: RunResult) -> Course:
    """The numbers of the figure."""
    return Course(
        n_tokens=float(frozen.actual["n_tokens"]),
        measured=tuple((point[1], point[2]) for point in result.curve),
        training=tuple((point[1], point[2]) for point in result.train_curve),
        loss=result.loss,
        predicted=frozen.loss,
        quoted=frozen.quoted,
        level=frozen.level,
        band=frozen.stop_band,
        held=None if result.loss is None else frozen.held(result.loss)["quoted"],
        reach=frozen.reach,
    )


def page(
    plan: Plan,
    frozen: FrozenForecast,
    result: RunResult,
    outcome: Outcome,
    rows: Sequence[Compared],
    told: Sequence[Mapping[str, Any]],
    drawn: bool,
) -> str:
    """The page as Markdown."""
    table = ["| | predicted | which is | measured | error |", "|---|---|---|---|---|"]
    table += [
        f"| {row.name}{f' ({row.unit})' if row.unit else ''} | {_cell(row.predicted, row.write)} "
        f"| {row.kind} | {_cell(row.actual, row.write)} | {_percent(row.error)} |"
        for row in rows
    ]
    interval = (
        f"Loss, {frozen.level:.0%} intervals [extrapolated]: quoted "
        f"{between(frozen.quoted, _loss)}, by noise alone {between(frozen.statistical, _loss)}, "
        f"which {_noise(outcome)}."
    )
    figure = "No figure: the run has no curve, and the forecast no band."
    if drawn:
        inside = "Dots: validation loss on the way; line: training loss [both measured]. "
        inside += (
            "Band: what the curves of the evidence led to expect [extrapolated], frozen before."
            if frozen.band is not None
            else f"There is no band: {frozen.band_absent}."
        )
        figure = f"![course](course.png)\n\n{inside} ([course.svg](course.svg))"
    where = [
        ("plan", plan.name),
        ("evidence", f"{frozen.evidence['n_runs']} runs of {plan.sweep}, {frozen.law} speaks"),
        ("forecast", f"`{frozen.digest}`, frozen {frozen.created}"),
        ("verdict before the run", frozen.verdict),
        ("run", f"`{result.run}`, ended {outcome.ended}"),
        ("device", f"{result.device}, {result.precision}"),
        ("tokens per second", "unknown" if result.tokens_per_s is None
         else f"{result.tokens_per_s:,.0f} [measured]"),
        ("MFU", "unknown" if result.mfu is None else f"{result.mfu:.1%} [measured]"),
        ("corpus", f"`{result.data_digest}`, tokenizer {result.tokenizer}"),
    ]  # fmt: skip
    if frozen.override is not None:
        where.append(("launched past the gate", frozen.override))
    parts = [
        f"# What came true: {plan.name}",
        f"**{sentence(frozen, outcome)}**",
        "\n".join(table),
        interval,
        figure,
        "## On the way",
        _on_the_way(frozen, result, told),
        "## Where this comes from",
        "\n".join(
            ["| what | value |", "|---|---|", *(f"| {k} | {_escaped(v)} |" for k, v in where)]
        ),
        "Every number in full: [outcome.json](outcome.json).",
    ]
    return "\n\n".join(parts) + "\n"


def _on_the_way(
    frozen: FrozenForecast, result: RunResult, told: Sequence[Mapping[str, Any]]
) -> str:
    counted = {kind: sum(e["event"] == kind for e in told) for kind in NAMED}
    lines = [f"- {kind.replace('_', ' ')}: {n}" for kind, n in counted.items() if n]
    for event in [e for e in told if e["event"] == "alarm"][:SHOWN]:
        lines.append(
            f"- alarm at step {event['step']}: {event['what']} loss {event['loss']:.4f} "
            f"{event['side']} the band [{event['low']:.4f}, {event['high']:.4f}]"
        )
    left = _left(frozen, result)
    if left is None:
        lines.append("- whether the loss stayed in its band is unknown: there was none")
    elif left:
        lines.append(
            f"- validation loss left the band at {len(left)} of {len(result.curve)} points of its "
            "curve"
        )
    else:
        lines.append("- validation loss stayed in its band at every point of its curve")
    return "\n".join(lines)


def _left(frozen: FrozenForecast, result: RunResult) -> list[dict[str, Any]] | None:
    """Points of the validation curve outside the band, but for the end; None without a band."""
    band = frozen.stop_band
    if band is None:
        return None
    found = []
    for step, _, loss in result.curve:
        share = step / result.n_steps
        side = band.leaves(share, loss) if share < 1 else None
        if side is not None:
            found.append({"step": step, "loss": loss, "side": side})
    return found


def _draw(data: Course, out: Path) -> bool:
    """Draw the course, if there is one; remove that of an earlier outcome otherwise."""
    paths = [out / "course.png", out / "course.svg"]
    if not data.measured and data.band is None:
        for path in paths:
            with writing(path):
                path.unlink(missing_ok=True)
        return False
    Painters().draw([("course", data, paths)])
    return True


def _loss(value: float) -> str:
    return f"{value:.4f}"


def _cell(value: float | None, write: Callable[[float], str]) -> str:
    return "unknown" if value is None else write(value)


def _percent(error: float | None) -> str:
    return "unknown" if error is None else f"{error:+.2%}"


def _noise(outcome: Outcome) -> str:
    return {True: "held", False: "missed", None: "was not judged"}[outcome.held_statistical]


def _escaped(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
