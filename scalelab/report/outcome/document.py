"""An outcome as one Document: whether the forecast held, predicted beside measured, the loss curve.

Not here: the numbers (comparison.py), the files (page.py), the figure (report/plan/plots.py).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from scalelab.plan.forecast.frozen import FrozenForecast
from scalelab.plan.forecast.ledger import Outcome
from scalelab.plan.plan import Plan
from scalelab.report.document import (
    Block,
    Bullets,
    Code,
    Content,
    Document,
    Facts,
    Figure,
    Heading,
    Link,
    Paragraph,
    Strong,
    Table,
)
from scalelab.report.outcome.comparison import NAMED, ForecastComparison, compared, outside_band, sentence
from scalelab.train.spec import RunResult
from scalelab.units import decimals, interval_text

ALARMS = 8
"""Alarms that the page lists."""


def outcome_document(
    plan: Plan,
    frozen: FrozenForecast,
    result: RunResult,
    outcome: Outcome,
    *,
    events: Sequence[Mapping[str, Any]] = (),
    has_figure: bool = False,
) -> Document:
    """Return everything that is reported of a launched plan.

    Args:
        plan: The plan that was launched.
        frozen: Its forecast, as it was frozen.
        result: The result of the run.
        outcome: The entry of the ledger.
        events: Events of the run's log that are counted on the page.
        has_figure: Whether the loss curve was drawn.
    """
    loss = decimals(4)
    noise = {True: "inside", False: "outside", None: "not compared"}[outcome.held_statistical]
    blocks: list[Block] = [
        Paragraph(Strong(sentence(frozen, outcome))),
        Table(
            ["", "predicted", "kind", "measured", "error", "unit"],
            [_row(row) for row in compared(plan, frozen, result, outcome)],
            align="lrlrrl",
            optional=["unit"],
        ),
        Facts(
            [
                (f"loss, {frozen.level:.0%} quoted", interval_text(frozen.quoted, loss)),
                (
                    f"loss, {frozen.level:.0%} from noise",
                    f"{interval_text(frozen.statistical, loss)} (measured loss: {noise})",
                ),
            ]
        ),
    ]
    if has_figure:
        blocks.append(Figure("course", _caption(frozen)))
    else:
        blocks.append(
            Paragraph("No figure: the run has no loss curve and the forecast no band.", detail=True)
        )
    blocks += [
        Heading("During training", detail=True),
        Bullets(_during_training(frozen, result, events), detail=True),
    ]
    blocks += [
        Heading("Provenance", detail=True),
        Facts(_provenance(plan, frozen, result, outcome), detail=True),
        Paragraph(["Every number in full: ", Link("outcome.json", "outcome.json"), "."], detail=True),
    ]
    return Document(f"Outcome: {plan.name}", blocks)


def _row(row: ForecastComparison) -> list[Content]:
    predicted, actual = (
        "unknown" if value is None else row.write(value) for value in (row.predicted, row.actual)
    )
    error = "unknown" if row.error is None else f"{row.error:+.2%}"
    return [row.name, predicted, row.kind, actual, error, row.unit]


def _caption(frozen: FrozenForecast) -> str:
    text = "Loss during training. Dots: validation loss; line: training loss (both measured). "
    if frozen.band is None:
        return text + f"No band: {frozen.band_absent}."
    return text + "Band: expected loss from the curves of the evidence (extrapolated), frozen before the run."


def _during_training(
    frozen: FrozenForecast, result: RunResult, events: Sequence[Mapping[str, Any]]
) -> list[Content]:
    counted = {kind: sum(e["event"] == kind for e in events) for kind in NAMED}
    items: list[Content] = [f"{kind.replace('_', ' ')}: {n}" for kind, n in counted.items() if n]
    for event in [e for e in events if e["event"] == "alarm"][:ALARMS]:
        items.append(
            f"alarm at step {event['step']}: {event['what']} loss {event['loss']:.4f} {event['side']} the band "
            f"[{event['low']:.4f}, {event['high']:.4f}]"
        )
    outside = outside_band(frozen, result)
    if outside is None:
        items.append("There was no band to compare the validation loss with.")
    elif outside:
        items.append(
            f"The validation loss was outside the band at {len(outside)} of {len(result.curve)} points."
        )
    else:
        items.append("The validation loss stayed inside the band at every point.")
    return items


def _measured(over_all: float | None, steady: float | None, form: str) -> str:
    """Return a rate over all steps and, where it is known, without those that compile the model."""
    if over_all is None:
        return "unknown"
    without = "" if steady is None else f"; {steady:{form}} without the first steps, which compile the model"
    return f"{over_all:{form}} (measured){without}"


def _provenance(
    plan: Plan, frozen: FrozenForecast, result: RunResult, outcome: Outcome
) -> list[tuple[str, Content]]:
    rows: list[tuple[str, Content]] = [
        ("plan", plan.name),
        ("evidence", f"{frozen.evidence['n_runs']} runs of {plan.sweep}; primary law {frozen.law}"),
        ("forecast", [Code(frozen.digest), f", frozen {frozen.created}"]),
        ("verdict before the run", frozen.verdict),
        ("run", [Code(result.run), f", ended {outcome.ended}"]),
        ("device", f"{result.device}, {result.precision}"),
        ("tokens per second", _measured(result.tokens_per_s, result.steady_tokens_per_s, ",.0f")),
        ("MFU", _measured(result.mfu, result.steady_mfu, ".1%")),
        ("corpus", [Code(str(result.data_digest)), f", tokenizer {result.tokenizer}"]),
    ]
    if frozen.override is not None:
        rows.append(("gate overridden", frozen.override))
    return rows
