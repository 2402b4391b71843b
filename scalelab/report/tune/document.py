"""A tuning as a Document: its plan before it starts, the best values of each cell, and their rule."""

import math
from collections.abc import Sequence
from pathlib import Path

from scalelab.launch.tune import TunePlan
from scalelab.launch.tune_result import TunedCell, TuneResult
from scalelab.laws.tuned_settings import LEVEL, SettingRule, SettingsOptimum
from scalelab.report.document import (
    Block,
    Bullets,
    Code,
    Content,
    Document,
    Facts,
    Figure,
    Heading,
    Paragraph,
    Table,
    Verbatim,
)
from scalelab.sweep.tune_file import BATCH
from scalelab.units import sci, si


def plan_document(plan: TunePlan) -> Document:
    """Return the plan of a tuning: fields, cells, cost."""
    file = plan.file
    fields = [
        [name, f"{r.low:g}", f"{r.high:g}", "logarithm" if r.log else "value"]
        for name, r in file.fields.items()
    ]
    rows = [
        [si(c.n_params), si(c.n_tokens), *(_value(name, own[name]) for name in file.fields), sci(flops)]
        for c, own, flops in zip(plan.cells, plan.own, plan.flops, strict=True)
    ]
    columns = ["N", "D", *(f"{name} now" for name in file.fields), "FLOPs a trial"]
    return Document(
        f"Tuning {file.name}",
        [
            Facts(
                [
                    ("question", " ".join(file.question.split())),
                    ("prediction", " ".join(file.prediction.split())),
                    ("recipe", f"{file.recipe.describe()} ({file.extends.name})"),
                ]
            ),
            Heading("Fields"),
            Table(["field", "low", "high", "spread evenly in its"], fields, align="lrrl"),
            Heading("Cells"),
            Table(columns, rows, align="r" * len(columns)),
            Paragraph(
                f"{len(rows)} cells of {file.trials} trials: {file.n_trials} runs, "
                f"{sci(file.trials * sum(plan.flops))} FLOPs; at most {file.reruns} reruns of each cell."
            ),
        ],
    )


def result_document(result: TuneResult, out: Path | None = None, figures: Sequence[Figure] = ()) -> Document:
    """Return what a tuning found.

    Args:
        result: The tuning.
        out: Directory of the report, for the next command; None on the page itself.
        figures: Figures beside the page.
    """
    file = result.file
    rows = [t for c in result.cells for t in c.trials]
    counts = {status: sum(t.status == status for t in rows) for status in ("finished", "diverged", "failed")}
    counts["without a result"] = len(rows) - sum(counts.values())
    said = ", ".join(f"{n} {status}" for status, n in counts.items() if n)
    blocks: list[Block] = [Paragraph(f"{len(rows)} trials: {said}.")]
    if result.lost:
        blocks.append(Bullets([f"{j.job.id} failed ({j.outcome}): {j.reason}" for j in result.lost]))
    if result.behind is not None:
        blocks.append(Paragraph(result.behind))
    if result.interrupted:
        return Document(
            f"Tuning {file.name}", [*blocks, Paragraph("Interrupted. Run the same command to resume.")]
        )
    blocks += _cells(result)
    blocks += _rules(result)
    blocks += figures
    blocks += _trials(result)
    if out is not None:
        blocks.append(Paragraph(["Report: ", Code(str(out / "README.md"))]))
        if result.written_rules():
            blocks.append(Paragraph(["Next: ", Code(f"scalelab sweep {out / 'recipe.yaml'}")]))
    elif result.written_rules():
        recipe = Verbatim(result.sweep_file().to_yaml(), "yaml", detail=True)
        blocks += [Heading("Recipe", detail=True), recipe]
    return Document(f"Tuning {file.name}", blocks)


def _value(field: str, value: float | None) -> str:
    if value is None:
        return "not set"
    return si(value) if field == BATCH else f"{value:.3g}"


def _interval(field: str, ends: tuple[float, float]) -> str:
    return f"[{_value(field, ends[0])}, {_value(field, ends[1])}]"


def natural(values: Sequence[float], log: bool) -> list[float]:
    """Return settings as they stand in a recipe, from the coordinates of a surface."""
    return [math.exp(v) if log else float(v) for v in values]


def _cells(result: TuneResult) -> list[Block]:
    """Best values of each cell, fitted; and what was observed where there are none."""
    file, table, others = result.file, [], []
    for c in result.cells:
        place: list[Content] = [si(c.cell.n_params), si(c.cell.n_tokens)]
        if isinstance(c.optimum, SettingsOptimum):
            for j, (name, r) in enumerate(file.fields.items()):
                (best,) = natural([c.optimum.place[j]], r.log)
                low, high = natural(c.optimum.interval(j), r.log)
                place += [_value(name, best), _interval(name, (low, high))]
            low, high = c.optimum.loss_interval
            table.append([*place, f"{c.optimum.loss:.4f}", f"[{low:.4f}, {high:.4f}]"])
        else:
            table.append([*place, *["-"] * (2 * len(file.fields) + 2)])
            others.append(_without(result, c))
    heads = [h for name in file.fields for h in (name, f"{LEVEL:.0%}")]
    columns = ["N", "D", *heads, "loss", f"{LEVEL:.0%} "]
    blocks: list[Block] = [
        Heading("Best values (fitted)"),
        Table(
            columns,
            table,
            align="r" * len(columns),
            caption="Lowest point of a log-quadratic surface through the trials of each cell; the loss is that of the "
            "surface there, nats per token.",
        ),
    ]
    return [*blocks, Bullets(others)] if others else blocks


def _without(result: TuneResult, c: TunedCell) -> str:
    """A cell without an optimum: why, and its best observed values with what further seeds give."""
    words = f"{c.cell.words()}: no optimum, {c.optimum}"
    if c.best is None:
        return words
    values = ", ".join(f"{name} {_value(name, v)}" for name, v in c.best.values.items())
    words += f"; best observed: {values}, loss {c.best.loss:.4f} (measured, the lowest of {len(c.trials)})"
    again = c.rerun_loss()
    if again is None:
        return words
    return f"{words}; {again[0]:.4f} +- {again[1]:.4f} with {len(c.reruns)} new seeds (measured)"


def formula(name: str, rule: SettingRule) -> str:
    """Return a rule in words, with intervals."""
    if not rule.is_power:
        low, high = natural(rule.interval(0), rule.is_log)
        (value,) = natural([rule.constants[0]], rule.is_log)
        return (
            f"{name} = {_value(name, value)} {_interval(name, (low, high))}, a constant: {rule.why_constant}"
        )
    a, b = rule.constants[1:]
    ends = [f"[{low:+.3f}, {high:+.3f}]" for low, high in (rule.interval(1), rule.interval(2))]
    return (
        f"{name} = {math.exp(rule.constants[0]):.4g} N^{a:+.3f} D^{b:+.3f}; exponents {ends[0]} and {ends[1]}"
    )


def _rules(result: TuneResult) -> list[Block]:
    """The rule of each field, and what the recipe says there."""
    blocks: list[Block] = [Heading("Rule (fitted)")]
    items: list[Content] = []
    for name, rule in result.rules.items():
        if isinstance(rule, str):
            items.append(f"{name} keeps the recipe's own: {rule}")
            continue
        spare = (
            f"cells scatter round it by chi2 {rule.chi2:.2f} with {rule.spare} degrees of freedom"
            if rule.spare
            else "as many constants as cells, so nothing tests it"
        )
        items.append(f"{formula(name, rule)} ({LEVEL:.0%} intervals, {rule.n_cells} cells; {spare})")
    blocks.append(Bullets(items))
    if result.file.recipe.has_trunks:
        blocks.append(
            Paragraph(
                "Trials were trained separately. The recipe shares trunks, which read the rule at the middle of their "
                "token counts."
            )
        )
    return blocks


def _trials(result: TuneResult) -> list[Block]:
    """Every trial, for the page."""
    names = list(result.file.fields)
    rows = [
        [
            si(c.cell.n_params),
            si(c.cell.n_tokens),
            *(_value(name, t.values[name]) for name in names),
            str(t.seed),
            t.status if t.loss is None else f"{t.loss:.4f}",
            Code(t.run),
        ]
        for c in result.cells
        for t in sorted([*c.trials, *c.reruns], key=lambda t: [t.values[n] for n in names])
    ]
    columns = ["N", "D", *names, "seed", "loss", "run"]
    return [
        Heading("Trials (measured)", detail=True),
        Table(columns, rows, align="r" * (len(columns) - 1) + "l", detail=True),
    ]
