"""The checks of a recipe as a Document: a line a check, then what each measured.

The terminal has the verdicts and the settings; the page also every measured value.
"""

from collections.abc import Mapping, Sequence

from scalelab.recipe_check import RECIPE_CHECKS
from scalelab.recipe_check.base import CheckFinding, RecipeMeasure
from scalelab.recipe_check.runner import RecipeReport
from scalelab.report.document import (
    Block,
    Content,
    Document,
    Facts,
    Figure,
    Heading,
    Number,
    Paragraph,
    Strong,
    Table,
)
from scalelab.train.parametrization import Multipliers
from scalelab.units import duration, sci

MEANING = (
    "Values are measured on short runs of small models, with 80% intervals over seeds. ok or fails: the whole "
    "interval is on one side of the limit. A recipe that passes here can still fail at a larger scale."
)


def recipe_document(
    report: RecipeReport, provenance: Mapping[str, str] | None = None, figures: Sequence[str] = ()
) -> Document:
    """Return the findings of all checks.

    Args:
        report: The findings.
        provenance: Version and commit of the code, for the page.
        figures: Names of the figures beside the page.
    """
    rows = [_row(name, found) for name, found in report.findings.items()]
    blocks: list[Block] = [
        Table(["check", "verdict", "decided by", "value", "80% interval", "limit"], rows, align="lllrrr"),
        Paragraph(MEANING),
    ]
    for name, found in report.findings.items():
        blocks += _section(name, found)
        if (figure := f"recipe_{name}") in figures:
            blocks.append(Figure(figure, _caption(found)))
    facts: list[tuple[str, Content]] = [
        ("param", report.recipe.param),
        ("recipe", report.recipe.describe()),
        ("corpus", report.corpus),
        ("FLOPs of one check", Number(sci(report.request.budget), "assumed", labelled=True)),
    ]
    if provenance is not None:
        facts += list(provenance.items())
    blocks += [Heading("Recipe", detail=True), Facts(facts, detail=True)]
    return Document(f"Recipe of {report.sweep}", blocks)


def multiplier_document(sweep: str, tables: Sequence[Multipliers]) -> Document:
    """Return the multipliers of a recipe by group of weights, a table for each size."""
    blocks: list[Block] = [
        Paragraph(
            f"param {tables[0].param}: factors on the values at width_ref and depth_ref (computed). The head starts "
            "at zero."
        )
    ]
    for found in tables:
        rows = [
            [name, *(_factor(value) for value in vars(group).values())]
            for name, group in found.groups.items()
        ]
        blocks += [
            Heading(f"Width x{found.width:g}, depth x{found.depth:g}"),
            Table(["group", "std at start", "rate", "decay", "eps"], rows),
            Facts([("residual branches", _factor(found.residual)), ("logits", _factor(found.output))]),
        ]
    return Document(f"Multipliers of {sweep}", blocks)


def _factor(value: float) -> str:
    return f"{value:.4g}"


def _row(name: str, found: CheckFinding) -> list[Content]:
    worst = found.worst
    verdict: Content = found.verdict if found.verdict == "ok" else Strong(found.verdict)
    return [name, verdict, worst.name, _value(worst.value), _interval(worst), f"{worst.threshold:g}"]


def _value(value: float | None) -> Content:
    return "-" if value is None else Number(f"{value:+.3f}", "measured")


def _interval(measure: RecipeMeasure) -> Content:
    if measure.low is None or measure.high is None:
        return "-"
    ends = [f"{end:+.3f}" if abs(end) < float("inf") else "beyond" for end in (measure.low, measure.high)]
    return Number(f"[{ends[0]}, {ends[1]}]", "measured")


def _section(name: str, found: CheckFinding) -> list[Block]:
    member = RECIPE_CHECKS[name]
    settings: list[tuple[str, Content]] = [(key, f"{value}") for key, value in found.settings.items()]
    settings.append(
        (
            "runs",
            f"{found.n_runs}, {duration(found.seconds)} of training and evaluation when they were trained",
        )
    )
    blocks: list[Block] = [
        Heading(f"{name}: {member.title}"),
        Paragraph(f"{member.question} Unit: {member.unit}."),
        Facts(settings),
    ]
    blocks += [Paragraph(note) for note in found.notes]
    reasons = {measure.reason for measure in found.measures if measure.reason}
    blocks += [Paragraph(f"{reason[0].upper()}{reason[1:]}.") for reason in sorted(reasons)]
    blocks.append(
        Table(
            ["measure", "value", "80% interval", "limit", "verdict"],
            [[m.name, _value(m.value), _interval(m), f"{m.threshold:g}", m.verdict] for m in found.measures],
            detail=True,
        )
    )
    if found.rows:
        rows = [[_cell(cell) for cell in row.cells] for row in found.rows]
        blocks.append(Table(found.columns, rows, caption="Measured.", detail=True))
    return blocks


def _caption(found: CheckFinding) -> str:
    """What the figure of a check shows."""
    words = f"Points: seeds [measured]. Lines: their means over {found.settings.get('seeds', 'all')} seeds."
    if found.plot is not None and found.plot.own is not None:
        words += (
            " Grey: the recipe's own rate. Dashed: the best rate, where it lies within those tried [fitted]."
        )
    return words


def _cell(value: str | float | int | None) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:.4g}"
