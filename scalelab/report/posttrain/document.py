"""A post-training as a Document: its plan before it starts, and what came of its stages.

Not here: the numbers (results.py), the figures (plots.py), files (page.py).
"""

from collections.abc import Iterator, Sequence
from typing import Any

from scalelab.files import exists
from scalelab.posttrain.display import StagePlot, StageTable
from scalelab.posttrain.run import PosttrainPlan, max_flops
from scalelab.posttrain.stages.grade import SetGrade
from scalelab.report.document import (
    Block,
    Bullets,
    Content,
    Document,
    Facts,
    Figure,
    Heading,
    Link,
    Number,
    Paragraph,
    Span,
    Strong,
    Table,
)
from scalelab.report.posttrain.results import GradedModel, PosttrainResults
from scalelab.units import duration, sci, si

CAPTIONS = {
    "models": "Every model on the first test set. Bars: 95% intervals of the mean over prompts.",
    "series": "The same stage on more and more data. Bars: 95% intervals of the mean over prompts.",
    "overreach": "Optimising against a reward model: its score (proxy) and the gold score of the answers "
    "against the distance from the start model.",
    "looks": "Evaluations on a hundred held-out prompts during the stages.",
}
"""Caption of each figure, by its name."""


def plan_document(plan: PosttrainPlan) -> Document:
    """Return the plan of a post-training: one row per stage with its state and greatest cost."""
    base = plan.base
    start = base["path"]
    if base.get("n_params_total") is not None:
        start += f" ({si(base['n_params_total'])} parameters, context {base['seq_len']})"
    facts: list[tuple[str, Content]] = [("base model", start)]
    if plan.file.question:
        facts.append(("question", " ".join(plan.file.question.split())))
    rows: list[list[Content]] = []
    graded = [p.spec.stage.graded_model() for p in plan.stages]
    for planned, model in zip(plan.stages, graded, strict=True):
        if model is not None:
            continue
        stage, flops = planned.spec.stage, max_flops(planned, base)
        rows.append(
            [
                planned.name,
                stage.kind,
                ", ".join(stage.needs()),
                _state(planned),
                "not known yet" if flops is None else Number(sci(flops), "computed"),
            ]
        )
    blocks: list[Block] = [
        Facts(facts),
        Table(["stage", "kind", "from", "state", "FLOPs at most"], rows, align="llllr", optional=["from"]),
    ]
    n_graded = sum(model is not None for model in graded)
    if n_graded:
        models = "1 model is graded" if n_graded == 1 else f"{n_graded} models are graded"
        each = f" on {plan.file.grades.prompts} prompts of each test set" if plan.file.grades else ""
        blocks.append(Paragraph(f"{models}{each}."))
    return Document(f"Post-training {plan.file.name}", blocks)


def _state(planned: Any) -> str:
    result = planned.dir.result()
    if result is not None:
        return result.status
    return "begun" if exists(planned.dir.run_dir.checkpoints) else "to do"


def result_document(data: PosttrainResults) -> Document:
    """Return what came of a post-training: grades, win rates and cost; stages and figures in detail."""
    blocks: list[Block] = []
    intent = [("question", data.question), ("expected", data.prediction)]
    if facts := [(label, " ".join(text.split())) for label, text in intent if text.strip()]:
        blocks.append(Facts(facts, detail=True))
    blocks += _grades(data)
    blocks += [Figure(name, CAPTIONS[name]) for name in available_figures(data)]
    blocks += _win_rates(data)
    if data.curves:
        blocks += [Heading("Proxy and gold"), Bullets(list(_turning_points(data)))]
    blocks += [Heading("Cost"), Paragraph(_cost(data)), Heading("Stages", detail=True), _stages(data)]
    blocks += _displays(data)
    if data.undone:
        blocks += [
            Heading("Not finished"),
            Bullets([[Strong(name), f": {reason}"] for name, reason in data.undone.items()]),
        ]
    facts = [
        *((k, f"{v:.6g}" if isinstance(v, float) else str(v)) for k, v in data.base.items()),
        ("seed", str(data.seed)),
    ]
    blocks += [
        Heading("Base model and seed", detail=True),
        Facts(facts, detail=True),
        Paragraph(["All numbers in full: ", Link("posttrain.json", "posttrain.json"), "."], detail=True),
    ]
    return Document(f"Post-training: {data.name}", blocks)


def available_figures(data: PosttrainResults) -> list[str]:
    """Return the names of the figures that there is data for."""
    has_evaluations = any(
        len(events) > 1 and ("held_out.gold" in events[0] or "held_out.accuracy" in events[0])
        for events in data.journals.values()
    )
    available = {
        "models": any(m.sets for m in data.models),
        "series": bool(data.series),
        "overreach": bool(data.curves),
        "looks": has_evaluations,
    }
    return [name for name, is_available in available.items() if is_available]


def stage_plots(data: PosttrainResults) -> dict[str, StagePlot]:
    """Return the plots that stages describe, by the name of their file."""
    return {
        f"{stage}-{plot.name}": plot for stage, display in data.displays.items() for plot in display.plots
    }


def _grades(data: PosttrainResults) -> list[Block]:
    sets = list(dict.fromkeys(name for m in data.models for name in m.sets))
    blocks: list[Block] = [
        Heading("Grades"),
        Paragraph(
            "Measured on held-out prompts with greedy answers; sets named NAME.sampled have sampled answers. "
            "Standard errors over prompts: " + _greatest_errors(data) + "."
        ),
        Paragraph(
            "Gold: one point for a right answer, less 0.05 per word, where the conversations have a gold "
            "score. Bits per byte: on the base model's validation text, to measure forgetting.",
            detail=True,
        ),
    ]
    for what, form in (("accuracy", "{:.3f}"), ("gold", "{:+.3f}")):
        columns = [name for name in sets if any(_known(m, name, what) is not None for m in data.models)]
        has_bpb = what == "accuracy" and any(m.bpb is not None for m in data.models)
        if not columns and not has_bpb:
            continue
        rows = [
            [
                m.model,
                *(_measured(_known(m, name, what), form) for name in columns),
                *([_measured(m.bpb, "{:.3f}")] if has_bpb else []),
            ]
            for m in data.models
        ]
        head = [what, *columns, *(["bits/byte"] if has_bpb else [])]
        blocks.append(Table(head, rows, optional=columns[:0:-1]))
    if sets:
        blocks.append(_grades_in_full(data))
    return blocks


def _grades_in_full(data: PosttrainResults) -> Table:
    """Every grade with its standard error, one row per model and test set."""
    rows: list[list[Content]] = [
        [
            m.model,
            name,
            str(g.n),
            _with_error(g.accuracy, g.accuracy_se, "{:.3f}"),
            _with_error(g.gold, g.gold_se, "{:+.3f}"),
            "" if g.words is None else Number(f"{g.words:.1f}", "measured"),
            "" if g.ended is None else Number(f"{1 - g.ended:.0%}", "measured"),
        ]
        for m in data.models
        for name, g in m.sets.items()
    ]
    columns = ["model", "test set", "prompts", "accuracy", "gold", "words", "cut off"]
    return Table(columns, rows, align="llrrrrr", detail=True)


def _known(model: GradedModel, name: str, what: str) -> float | None:
    grade: SetGrade | None = model.sets.get(name)
    return None if grade is None else getattr(grade, what)


def _measured(value: float | None, form: str) -> Content:
    return "" if value is None else Number(form.format(value), "measured")


def _with_error(value: float | None, error: float | None, form: str) -> Content:
    if value is None:
        return ""
    return Number(form.format(value) + ("" if error is None else f" ± {error:.3f}"), "measured")


def _greatest_errors(data: PosttrainResults) -> str:
    grades = [g for m in data.models for g in m.sets.values()]
    found = []
    for what in ("accuracy", "gold"):
        errors = [e for g in grades if (e := getattr(g, f"{what}_se")) is not None]
        if errors:
            found.append(f"at most {max(errors):.3f} of {what}")
    return ", ".join(found) or "none"


def _win_rates(data: PosttrainResults) -> list[Block]:
    won = [m for m in data.models if m.wins]
    if not won:
        return []
    return [
        Heading("Win rates"),
        Paragraph(
            "Greedy answers to the first test set against those of the start model, judged by gold, with 95% "
            "intervals over prompts. At equal lengths: fitted, Dubois et al. 2024, arXiv:2404.04475.",
            detail=True,
        ),
        Bullets([_wins(m) for m in won]),
    ]


def _wins(model: GradedModel) -> Sequence[Span]:
    wins = model.wins
    parts: list[Span] = [
        f"{model.model} over {wins['baseline']}: ",
        Number(f"{wins['raw']:.1%}{_interval(wins['raw_interval'])}", "measured", labelled=True),
    ]
    if wins["lc"] is not None:
        fitted = Number(f"{wins['lc']:.1%}{_interval(wins['lc_interval'])}", "fitted", labelled=True)
        parts += ["; at equal lengths ", fitted]
    return parts


def _interval(ends: Any) -> str:
    return "" if ends is None else f" [{ends[0]:.1%}, {ends[1]:.1%}]"


def _turning_points(data: PosttrainResults) -> Iterator[str]:
    """Where gold turns down while the proxy rises, one sentence per curve."""
    for curve in data.curves:
        kl, proxy, gold = curve.smoothed()
        peak, last = int(gold.argmax()), int(kl.argmax())
        yield (
            f"{curve.name}: gold is highest at KL {kl[peak]:.2f} nats (gold {gold[peak]:.3f}, proxy "
            f"{proxy[peak]:.3f}); at the greatest KL, {kl[last]:.2f}, gold is {gold[last]:.3f} and proxy "
            f"{proxy[last]:.3f} (measured; KL {curve.kl_is})."
        )


def _cost(data: PosttrainResults) -> Sequence[Span]:
    """The cost of the post-training, and its share of the total with the base model."""
    parts: list[Span] = [
        Number(f"{sci(data.flops)} FLOPs", "computed", labelled=True),
        f" in {duration(data.seconds)} of process time",
    ]
    spent = data.base.get("flops")
    if spent is None:
        return [*parts, "."]
    total = float(spent) + float(data.base.get("flops_before") or 0.0) + data.flops
    return [*parts, f"; {data.flops / total:.1%} of {sci(total)} with the base model and its sweep."]


def _stages(data: PosttrainResults) -> Table:
    rows: list[list[Content]] = [
        [
            s.stage,
            s.kind,
            s.status,
            si(s.n_tokens),
            Number(sci(s.flops), "computed"),
            duration(s.seconds),
            Number(_bytes(sum(s.memory_bytes.values())), "computed"),
            ", ".join(f"{k} {_short(v)}" for k, v in s.metrics.items() if v is not None),
        ]
        for s in data.stages
        if s.stage not in data.grading
    ]
    columns = ["stage", "kind", "status", "tokens", "FLOPs", "time", "memory", "metrics"]
    caption = "FLOPs and memory are computed, not measured."
    return Table(columns, rows, align="lllrrrrl", caption=caption, detail=True)


def _bytes(n: float) -> str:
    return si(n).replace("B", "G") + "B"


def _displays(data: PosttrainResults) -> Iterator[Block]:
    """Tables and plots that stages describe themselves."""
    for stage, display in data.displays.items():
        for table in display.tables:
            yield Heading(f"{stage}: {table.title}", level=3, detail=True)
            yield _table(table)
    for name, plot in stage_plots(data).items():
        yield Figure(name, plot.title)


def _table(table: StageTable) -> Block:
    if not table.rows:
        return Paragraph("The table is empty.", detail=True)
    columns = list(table.rows[0])
    rows = [["" if row[name] is None else _short(row[name]) for name in columns] for row in table.rows]
    return Table(columns, rows, detail=True)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
