"""The page of a post-training, and its words for a terminal.

OUT/README.md  posttrain.json  models.png  series.png  overreach.png  looks.png  (and .svg), and
STAGE-NAME.png for every plot that a stage shows
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scalelab.files import make_dir, write_json, write_text, writing
from scalelab.posttrain.display import Plot, Table
from scalelab.posttrain.grade import SetGrade
from scalelab.report.painters import Painters
from scalelab.report.posttrained import Graded, Posttrained, record
from scalelab.units import duration, sci, si

FIGURES = {
    "models": "Every model on the first test set. Bars: 95% of the mean over prompts.",
    "series": "The same stage on more and more data. Bars: 95% of the mean over prompts.",
    "overreach": "What happens when a reward model is pushed: the proxy it was trained to be, and "
    "what answers are worth, over the distance from the model that was pushed.",
    "looks": "Held-out answers while the stages were being done (a hundred prompts).",
}


def write_page(data: Posttrained, out: Path) -> Path:
    """Write page, figures and posttrain.json; the page's path."""
    make_dir(out)
    drawn = drawable(data)
    write_json(out / "posttrain.json", record(data))
    jobs = [(f"post_{name}", data, [out / f"{name}.png", out / f"{name}.svg"]) for name in drawn]
    jobs += [
        ("post_plot", plot, [out / f"{name}.png", out / f"{name}.svg"])
        for name, plot in plots(data).items()
    ]
    Painters().draw(jobs)
    for name in set(FIGURES) - set(drawn):
        for path in (out / f"{name}.png", out / f"{name}.svg"):
            with writing(path):
                path.unlink(missing_ok=True)  # of an earlier page
    write_text(out / "README.md", page(data, drawn))
    return out / "README.md"


def drawable(data: Posttrained) -> list[str]:
    """Figures that there are numbers for."""
    has_looks = any(
        len(events) > 1 and ("held_out.gold" in events[0] or "held_out.accuracy" in events[0])
        for events in data.journals.values()
    )
    there = {
        "models": any(m.sets for m in data.models),
        "series": bool(data.series),
        "overreach": bool(data.curves),
        "looks": has_looks,
    }
    return [name for name, is_there in there.items() if is_there]


def plots(data: Posttrained) -> dict[str, Plot]:
    """The plots that stages show, by the name of their file."""
    return {
        f"{stage}-{plot.name}": plot
        for stage, display in data.displays.items()
        for plot in display.plots
    }


def text(data: Posttrained) -> str:
    """What came of it, for a terminal."""
    sets = list(dict.fromkeys(name for m in data.models for name in m.sets))
    lines = ["Grades [measured]: accuracy (gold) on held-out prompts, greedy unless drawn"]
    width = max((len(m.model) for m in data.models), default=5) + 2
    lines.append(f"  {'':{width}}" + "".join(f"{name:>16}" for name in sets) + f"{'bits/byte':>11}")
    for model in data.models:
        cells = "".join(f"{_cell(model.sets.get(name)):>16}" for name in sets)
        bpb = "" if model.bpb is None else f"{model.bpb:.3f}"
        lines.append(f"  {model.model:{width}}{cells}{bpb:>11}".rstrip())
    lines.append("  standard errors: " + _errors(data))
    won = [m for m in data.models if m.wins]
    if won:
        lines += [
            "",
            "Win rates over what each began as [measured by gold; at equal lengths fitted]",
        ]
        lines += [f"  {m.model:{width}}over {_wins(m)}" for m in won]
    lines += ["", *_turning(data), f"cost: {_cost(data)}"]
    for name, reason in data.undone.items():
        lines.append(f"not done: {name}: {reason.splitlines()[0]}")
    return "\n".join(lines)


def page(data: Posttrained, drawn: Sequence[str]) -> str:
    """The page as Markdown."""
    sets = list(dict.fromkeys(name for m in data.models for name in m.sets))
    head = ["model", *sets, "bits/byte", "FLOPs"]
    table = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for m in data.models:
        row = [m.model, *(_full(m.sets.get(name)) for name in sets)]
        row += ["" if m.bpb is None else f"{m.bpb:.4f}", "" if m.flops is None else sci(m.flops)]
        table.append(f"| {' | '.join(row)} |")
    parts = [
        f"# Post-training: {data.name}",
        *([f"Question: {data.question.strip()}"] if data.question else []),
        *([f"Expected: {data.prediction.strip()}"] if data.prediction else []),
        "## Grades",
        "Accuracy / gold with standard errors over prompts, measured on held-out prompts; greedy "
        "answers, but for sets named `sampled`. Gold: one point for a right answer, less .05 a "
        "word, where the conversations know it. Bits per byte: the base's validation text, for "
        "what was forgotten.",
        "\n".join(table),
        *(_figure(name) for name in drawn),
    ]
    won = [m for m in data.models if m.wins]
    if won:
        parts += [
            "## Win rates",
            "Greedy answers to the first test set, judged by gold; 95% intervals over prompts. At "
            "equal lengths: fitted (Dubois et al. 2024).",
            "\n".join(f"- {m.model} over {_wins(m)}" for m in won),
        ]
    parts += ["## Stages", _stages(data), *_turning(data), f"Cost: {_cost(data)}."]
    for stage, display in data.displays.items():
        for shown in display.tables:
            parts += [f"### {stage}: {shown.title}", _table(shown)]
    parts += [
        f"![{plot.title}]({name}.png)\n\n{plot.title} ([{name}.svg]({name}.svg))"
        for name, plot in plots(data).items()
    ]
    if data.undone:
        parts += ["## Not done", "\n".join(f"- {n}: {r}" for n, r in data.undone.items())]
    base = [f"| {k} | {v} |" for k, v in data.base.items()]
    parts += [
        "## Where this comes from",
        "\n".join(["| what | value |", "|---|---|", *base, f"| seed | {data.seed} |"]),
        "Every number in full: [posttrain.json](posttrain.json).",
    ]
    return "\n\n".join(parts) + "\n"


def _figure(name: str) -> str:
    return f"![{name}]({name}.png)\n\n{FIGURES[name]} ([{name}.svg]({name}.svg))"


def _table(table: Table) -> str:
    head = list(table.rows[0]) if table.rows else ["nothing"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in table.rows:
        cells = ["" if row[name] is None else _short(row[name]) for name in head]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _stages(data: Posttrained) -> str:
    head = "stage | kind | status | tokens | FLOPs [reckoned] | time | memory [reckoned] | what"
    rows = [f"| {head} |", "|" + "---|" * 8]
    for s in data.stages:
        if s.stage in data.grading:
            continue
        what = ", ".join(f"{k} {_short(v)}" for k, v in s.metrics.items() if v is not None)
        rows.append(
            f"| {s.stage} | {s.kind} | {s.status} | {si(s.n_tokens)} | {sci(s.flops)} "
            f"| {duration(s.seconds)} | {si(sum(s.memory_bytes.values()))}B | {what} |"
        )
    return "\n".join(rows)


def _turning(data: Posttrained) -> list[str]:
    """Where gold turned down while the proxy rose, in words."""
    lines = []
    for curve in data.curves:
        kl, proxy, gold = curve.steadied()
        peak, last = int(gold.argmax()), int(kl.argmax())
        lines.append(
            f"{curve.name}: gold is highest at KL {kl[peak]:.2f} nats ({gold[peak]:.3f}, proxy "
            f"{proxy[peak]:.3f}); farthest, at KL {kl[last]:.2f}, it is {gold[last]:.3f}, proxy "
            f"{proxy[last]:.3f} [measured; KL {curve.kl_is}]"
        )
    return lines


def _cost(data: Posttrained) -> str:
    """Of the post-training, and beside what the base took."""
    own = f"{sci(data.flops)} FLOPs [reckoned], {duration(data.seconds)} of processes' time"
    spent = data.base.get("flops")
    if spent is None:
        return own
    total = float(spent) + float(data.base.get("flops_before") or 0.0)
    share = data.flops / (total + data.flops)
    return f"{own}; with the base and its sweep {sci(total + data.flops)}, of which {share:.1%}"


def _cell(grade: SetGrade | None) -> str:
    if grade is None or grade.accuracy is None:
        return ""
    gold = "" if grade.gold is None else f" ({grade.gold:+.3f})"
    return f"{grade.accuracy:.3f}{gold}"


def _full(grade: SetGrade | None) -> str:
    if grade is None or grade.accuracy is None:
        return ""
    said = f"{grade.accuracy:.3f}{_plus(grade.accuracy_se)}"
    if grade.gold is not None:
        said += f" / {grade.gold:+.3f}{_plus(grade.gold_se)}"
    if grade.ended is not None and grade.ended < 1:
        said += f", {1 - grade.ended:.0%} cut off"
    return said


def _plus(error: float | None) -> str:
    return "" if error is None else f" ± {error:.3f}"


def _errors(data: Posttrained) -> str:
    grades = [g for m in data.models for g in m.sets.values() if g.accuracy_se is not None]
    if not grades:
        return "none"
    said = f"at most {max(g.accuracy_se for g in grades):.3f} of accuracy"
    golds = [g.gold_se for g in grades if g.gold_se is not None]
    return said + (f", {max(golds):.3f} of gold" if golds else "") + ", over prompts"


def _wins(model: Graded) -> str:
    wins = model.wins
    said = f"{wins['baseline']}: {wins['raw']:.1%} {_between(wins['raw_interval'])}"
    if wins["lc"] is not None:
        said += f", at equal lengths {wins['lc']:.1%} {_between(wins['lc_interval'])}"
    return said


def _between(ends: Any) -> str:
    return "" if ends is None else f"[{ends[0]:.1%}, {ends[1]:.1%}]"


def _short(value: float) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
