"""An evaluation as a Document: the plan; scores by model; each measurement with the kinds of its values.

A value `x` with `x_low` and `x_high` is shown as "x [low, high]". Rows describe themselves as data
(RowKind), so a measurement of another package needs no code here.

Not here: the measurements (evals/), files (cli/evaluate.py).
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from scalelab.evals.evaluation_runner import AGGREGATE, EvalResult
from scalelab.evals.measurement import MeasurementContext, MeasurementRow, RowKind
from scalelab.report.document import (
    Block,
    Bullets,
    Code,
    Content,
    Document,
    Facts,
    Heading,
    Link,
    Number,
    Paragraph,
    Strong,
    Table,
    Verbatim,
)

COLUMNS = re.compile(r"\S {2,}\S")
"""Two or more spaces inside a line: text with aligned columns."""


def plan_document(context: MeasurementContext) -> Document:
    """Return what will be measured: the models, then the measurements."""
    facts: list[tuple[str, Content]] = [(name, str(where)) for name, where in context.models.items()]
    lines = [line for section in context.file.sections.values() for line in section.describe(context)]
    title = f"Evaluation {context.file.name}: {len(context.models)} models"
    return Document(title, [Facts(facts), Bullets(lines)])


def result_document(result: EvalResult) -> Document:
    """Return every measurement: tables of scores, then each in full, then the provenance."""
    context = result.context
    blocks: list[Block] = []
    if context.file.question:
        blocks.append(Paragraph(f"Question: {' '.join(context.file.question.split())}", detail=True))
    blocks += _scores(result)
    for kind in (*result.kinds, AGGREGATE):
        rows = [row for row in result.rows if row.kind == kind.name]
        if rows:
            blocks.append(Heading(kind.title))
            blocks += _values(kind, rows)
            blocks += [block for row in rows for block in _description(row)]
    blocks += [
        Heading("Provenance", detail=True),
        Table(
            ["model", "weights", "directory"],
            [[name, Code(result.digests[name]), str(where)] for name, where in context.models.items()],
            align="lll",
            detail=True,
        ),
        Paragraph(["Every number in full: ", Link("evals.json", "evals.json"), "."], detail=True),
    ]
    return Document(f"Evaluation: {context.file.name}", blocks)


def _description(row: MeasurementRow) -> Iterator[Block]:
    """Yield the text of a row: sentences wrap, aligned columns keep their lines."""
    if row.model:
        yield Paragraph(Strong(row.model))
    if COLUMNS.search(row.text):
        yield Verbatim(row.text)
        return
    first, *rest = row.text.split("\n")
    yield Paragraph(first)
    if rest:
        yield Bullets([line.strip() for line in rest])


def _values(kind: RowKind, rows: Sequence[MeasurementRow]) -> list[Block]:
    """Return the table of the rows' values, each with the kind of its numbers; nothing without values."""
    rows = [row for row in rows if row.values]
    if not rows or not kind.tabulated:
        return []
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    names = [name for name in names if not _is_bound(name, names)]
    kinds = {name: {kind.kind_of(row, name) for row in rows if name in row.values} for name in names}
    is_one_kind = len(set().union(*kinds.values())) == 1
    is_by_column = all(len(found) == 1 for found in kinds.values())
    heads = [_title(name) for name in names]
    if is_by_column and not is_one_kind:
        heads = [f"{head} ({min(kinds[name])})" for head, name in zip(heads, names, strict=True)]
    cells = [
        [
            *([row.model or ""] if any(one.model for one in rows) else []),
            row.name,
            *(
                Number(_number(row.values, name), kind.kind_of(row, name), labelled=not is_by_column)
                if name in row.values
                else ""
                for name in names
            ),
        ]
        for row in rows
    ]
    labels = ["model", "name"] if any(row.model for row in rows) else ["name"]
    caption = f"All values are {min(kinds[names[0]])}." if is_one_kind else ""
    align = "l" * len(labels) + "r" * len(names)
    return [Table([*labels, *heads], cells, align=align, caption=caption)]


def _is_bound(name: str, names: Sequence[str]) -> bool:
    """Whether a value is the end of another value's interval."""
    value, _, end = name.rpartition("_")
    return end in ("low", "high") and value in names


def _title(name: str) -> str:
    return name.replace("_", " ")


def _number(values: Mapping[str, float | None], name: str) -> str:
    low, high = values.get(f"{name}_low"), values.get(f"{name}_high")
    interval = "" if low is None or high is None else f" [{_plain(low)}, {_plain(high)}]"
    return _plain(values[name]) + interval


def _plain(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _scores(result: EvalResult) -> list[Block]:
    """Models by sets and tasks, one table for each kind with a score."""
    tables: list[Block] = []
    for kind in result.kinds:
        rows = [row for row in result.rows if row.kind == kind.name]
        if kind.score is None or not rows:
            continue
        names = list(dict.fromkeys(row.name for row in rows))
        models = list(dict.fromkeys(row.model for row in rows))
        scores = {(row.model, row.name): row.values.get(kind.score) for row in rows}
        cells: list[list[Content]] = []
        for model in models:
            found = [scores.get((model, name)) for name in names]
            shown: list[Content] = ["" if v is None else Number(f"{v:.3f}", "measured") for v in found]
            cells.append([str(model), *shown])
        tables.append(Table([kind.score_title, *names], cells, detail=True))
    return tables
