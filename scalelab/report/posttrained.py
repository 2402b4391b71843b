"""What a post-training came to, as numbers: one row a model, one a stage, and the curves.

Accuracy and gold are measured on held-out prompts, with the standard error of the mean over
prompts; bits per byte on the base's own validation text. Win rates are of greedy answers to the
same prompts, judged by gold; at equal lengths by the regression of evals/length.py. FLOPs and
bytes are reckoned, not measured, and every number says which.

Not here: figures (posttrain_figures.py), the page (posttrain_page.py).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from scalelab.errors import DataError, RunError
from scalelab.evals.inputs import MODEL
from scalelab.evals.judgments import Judgments
from scalelab.evals.pairwise import length_controlled, win_rate
from scalelab.posttrain.base import StageDir, StageResult
from scalelab.posttrain.display import Curve, Display
from scalelab.posttrain.flow import BASE, Planned
from scalelab.posttrain.grade import ANSWERS, ModelGrade, SetGrade
from scalelab.sealed import read_lines

SCHEMA = 1


@dataclass(frozen=True)
class Graded:
    """One model and what it can do."""

    model: str
    kind: str
    start: str | None
    """What it began as."""
    sets: Mapping[str, SetGrade]
    """By name of the test set."""
    bpb: float | None
    """On the base's validation text."""
    flops: float | None
    """Of the stage that made it; None for the base."""
    wins: Mapping[str, Any] | None = None
    """Win rate over the model that it began as, raw and at equal lengths."""


@dataclass(frozen=True)
class Posttrained:
    """All of it."""

    name: str
    question: str
    prediction: str
    base: Mapping[str, Any]
    seed: int
    models: Sequence[Graded]
    stages: Sequence[StageResult]
    undone: Mapping[str, str]
    """Stages without a result, and why."""
    series: Sequence[tuple[int, SetGrade]]
    """Of models that differ in one amount alone: the amount, and the grade of the first set."""
    series_of: str
    """What the amount counts."""
    curves: Sequence[Curve]
    displays: Mapping[str, Display]
    """By stage that has a result."""
    grading: Collection[str]
    """Stages that grade: their numbers stand with the models that they grade."""
    journals: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """Held-out looks on the way, by stage."""

    @property
    def flops(self) -> float:
        """Of everything that was done, grading too."""
        return sum(stage.flops for stage in self.stages)

    @property
    def seconds(self) -> float:
        """Of all processes together."""
        return sum(stage.seconds for stage in self.stages)


def gather(
    file: Any, planned: Sequence[Planned], base: Mapping[str, Any], why: Mapping[str, str]
) -> Posttrained:
    """Everything that lies in the stage directories.

    Args:
        file: The post-training file.
        planned: Its stages.
        base: What is known of the base model.
        why: Reasons of stages that have no result.
    """
    results = {p.name: p.dir.result() for p in planned}
    by_name = {p.name: p for p in planned}
    grading = {p.spec.stage.grade_of(): p for p in planned if p.spec.stage.grade_of() is not None}
    displays = {
        p.name: p.spec.stage.display(result)
        for p in planned
        if (result := results[p.name]) is not None and result.status == "finished"
    }
    answering = [p.name for p in planned if p.spec.stage.leaves == MODEL]
    models = []
    for name in (BASE, *answering):
        grade = results[grading[name].name] if name in grading else None
        if grade is None or grade.status != "finished":
            continue
        stage = by_name[name].spec.stage if name in by_name else None
        found = ModelGrade.of(grade)
        start = None if stage is None else stage.baseline()
        wins = None
        if start not in (None, BASE) and start in grading and results[grading[start].name]:
            wins = wins_over(grading[name], grading[start], name, start)
        models.append(
            Graded(
                model=name,
                kind="base" if stage is None else stage.kind,
                start=start,
                sets=found.sets,
                bpb=None if found.text is None else found.text.bpb,
                flops=None if stage is None else results[name].flops,
                wins=wins,
            )
        )
    series, series_of = _series(displays, models)
    return Posttrained(
        name=file.name,
        question=file.question,
        prediction=file.prediction,
        base=base,
        seed=file.seed,
        models=models,
        stages=[r for r in results.values() if r is not None],
        undone={n: why.get(n, "not begun") for n, r in results.items() if r is None},
        series=series,
        series_of=series_of,
        curves=[shown.curve for shown in displays.values() if shown.curve is not None],
        displays=displays,
        grading={p.name for p in grading.values()},
        journals={
            name: [e for e in by_name[name].dir.run_dir.events() if e["event"] == "eval"]
            for name in answering
        },
    )


def _series(
    displays: Mapping[str, Display], models: Sequence[Graded]
) -> tuple[list[tuple[int, SetGrade]], str]:
    """The largest group of graded models that differ in one amount alone, and what it counts."""
    groups: dict[str, list[tuple[int, SetGrade]]] = {}
    counted = {}
    for model in models:
        shown = displays.get(model.model)
        if shown is None or shown.series is None or not model.sets:
            continue
        place = shown.series
        groups.setdefault(place.group, []).append((place.amount, next(iter(model.sets.values()))))
        counted[place.group] = place.what
    group = max(groups, key=lambda name: len(groups[name]), default=None)
    if group is None or len(groups[group]) < 2:
        return [], ""
    return sorted(groups[group], key=lambda pair: pair[0]), counted[group]


def wins_over(one: Planned, other: Planned, model: str, baseline: str) -> dict[str, Any] | None:
    """Greedy answers of two models to the same prompts of the first test set, judged by gold."""
    ours, theirs = (_answers(p.dir) for p in (one, other))
    if len(ours) != len(theirs):  # from before the seals, and a line is missing
        return None
    if not ours or ours[0]["gold"] is None:
        return None
    verdict = [
        0.5 if abs(a["gold"] - b["gold"]) < 1e-9 else float(a["gold"] > b["gold"])
        for a, b in zip(ours, theirs, strict=True)
    ]
    judgments = Judgments(
        model,
        baseline,
        np.arange(len(ours)),
        np.array(verdict),
        np.array([len(a["answer"].split()) for a in ours]),
        np.array([len(b["answer"].split()) for b in theirs]),
        length_unit="words",
    )
    raw = win_rate(judgments).share
    found = {"baseline": baseline, "raw": raw.value, "raw_interval": raw.interval}
    try:
        fair = length_controlled(judgments).share
    except DataError:  # every pair has the same lengths: there is nothing to control for
        return found | {"lc": None, "lc_interval": None}
    return found | {"lc": fair.value, "lc_interval": fair.interval}


def _answers(stage: StageDir) -> list[dict[str, Any]]:
    """Answers to the first test set. Raises RunError: they are not as they were graded."""
    stage.check_outputs(ANSWERS)
    path = stage.path / ANSWERS
    lines = read_lines(path)
    rows = lines.records
    n_bad = lines.n_bad + sum(not _is_answer(row) for row in rows)
    if n_bad:
        raise RunError(
            f"{path.name} cannot be read: damaged lines: {n_bad}",
            where=str(path),
            fix="restore the file from a copy, or delete result.json beside it and run the same "
            "command again: the model is then graded anew",
        )
    return [row for row in rows if row["set"] == rows[0]["set"]]


def _is_answer(row: Mapping[str, Any]) -> bool:
    gold = row.get("gold", False)
    return (
        isinstance(row.get("set"), str)
        and isinstance(row.get("answer"), str)
        and (gold is None or type(gold) in (int, float))
    )


def record(data: Posttrained) -> dict[str, Any]:
    """All of it for programs."""
    return {
        "schema": SCHEMA,
        "name": data.name,
        "question": data.question,
        "prediction": data.prediction,
        "seed": data.seed,
        "base": dict(data.base),
        "models": [asdict(m) for m in data.models],
        "stages": [vars(s) for s in data.stages],
        "undone": dict(data.undone),
        "series": [{data.series_of: n, **asdict(grade)} for n, grade in data.series],
        "curves": [vars(c) for c in data.curves],
        "flops": data.flops,
        "flops_is": "reckoned",
        "seconds": data.seconds,
    }
