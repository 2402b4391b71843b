"""The results of a post-training as data: one entry per model and per stage, and the curves.

Accuracy and gold are measured on held-out prompts, with the standard error of the mean over
prompts; bits per byte on the base model's validation text. Win rates compare greedy answers to the
same prompts, judged by gold; at equal lengths by the regression of evals/preference/length.py.
FLOPs and bytes are computed, not measured.

Not here: figures (plots.py), text (document.py), files (page.py).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from scalelab.errors import DataError, RunError
from scalelab.evals.inputs import MODEL
from scalelab.evals.preference.judgments import Judgments
from scalelab.evals.preference.pairwise import length_controlled, win_rate
from scalelab.posttrain.base import StageDir, StageResult
from scalelab.posttrain.display import ProxyGoldCurve, StageDisplay
from scalelab.posttrain.pipeline import BASE, StagePlan
from scalelab.posttrain.run import PosttrainPlan
from scalelab.posttrain.stages.grade import ANSWERS, ModelGrade, SetGrade
from scalelab.sealed import read_lines

SCHEMA = 1


@dataclass(frozen=True)
class GradedModel:
    """One model with its grades."""

    model: str
    kind: str
    start: str | None
    """Name of its start model; None for the base model."""
    sets: Mapping[str, SetGrade]
    """Grade of each test set, by name."""
    bpb: float | None
    """Bits per byte on the base model's validation text."""
    flops: float | None
    """FLOPs of the stage that made it; None for the base model."""
    wins: Mapping[str, Any] | None = None
    """Win rate over its start model, raw and at equal lengths."""


@dataclass(frozen=True)
class PosttrainResults:
    """Everything that a report shows of a post-training."""

    name: str
    question: str
    prediction: str
    base: Mapping[str, Any]
    seed: int
    models: Sequence[GradedModel]
    stages: Sequence[StageResult]
    undone: Mapping[str, str]
    """Stages without a result, with the reason."""
    series: Sequence[tuple[int, SetGrade]]
    """Models that differ in one amount only: the amount and the grade of the first test set."""
    series_of: str
    """Unit of the amount."""
    curves: Sequence[ProxyGoldCurve]
    displays: Mapping[str, StageDisplay]
    """Display of each finished stage, by name."""
    grading: Collection[str]
    """Names of the grading stages; their numbers are part of the models."""
    journals: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """Evaluations during each stage, by name."""

    @property
    def flops(self) -> float:
        """FLOPs of all stages, including grades."""
        return sum(stage.flops for stage in self.stages)

    @property
    def seconds(self) -> float:
        """Seconds of all processes together."""
        return sum(stage.seconds for stage in self.stages)


def collect_results(plan: PosttrainPlan, reasons: Mapping[str, str]) -> PosttrainResults:
    """Read the results of all stages from their directories.

    Args:
        plan: The post-training.
        reasons: Reason of the outcome of each stage, by name, for stages without a result.
    """
    file, planned = plan.file, plan.stages
    results = {p.name: p.dir.result() for p in planned}
    by_name = {p.name: p for p in planned}
    grading = {p.spec.stage.graded_model(): p for p in planned if p.spec.stage.graded_model() is not None}
    displays = {
        p.name: p.spec.stage.display(result)
        for p in planned
        if (result := results[p.name]) is not None and result.status == "finished"
    }
    answering = [p.name for p in planned if p.spec.stage.output_kind == MODEL]
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
            wins = win_rate_over(grading[name], grading[start], name, start)
        models.append(
            GradedModel(
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
    return PosttrainResults(
        name=file.name,
        question=file.question,
        prediction=file.prediction,
        base=plan.base,
        seed=file.seed,
        models=models,
        stages=[r for r in results.values() if r is not None],
        undone={n: reasons.get(n, "not begun") for n, r in results.items() if r is None},
        series=series,
        series_of=series_of,
        curves=[display.curve for display in displays.values() if display.curve is not None],
        displays=displays,
        grading={p.name for p in grading.values()},
        journals={
            name: [e for e in by_name[name].dir.run_dir.events() if e["event"] == "eval"]
            for name in answering
        },
    )


def _series(
    displays: Mapping[str, StageDisplay], models: Sequence[GradedModel]
) -> tuple[list[tuple[int, SetGrade]], str]:
    """Return the largest group of graded models that differ in one amount only, and its unit."""
    groups: dict[str, list[tuple[int, SetGrade]]] = {}
    counted = {}
    for model in models:
        display = displays.get(model.model)
        if display is None or display.series is None or not model.sets:
            continue
        place = display.series
        groups.setdefault(place.group, []).append((place.amount, next(iter(model.sets.values()))))
        counted[place.group] = place.what
    group = max(groups, key=lambda name: len(groups[name]), default=None)
    if group is None or len(groups[group]) < 2:
        return [], ""
    return sorted(groups[group], key=lambda pair: pair[0]), counted[group]


def win_rate_over(one: StagePlan, other: StagePlan, model: str, baseline: str) -> dict[str, Any] | None:
    """Return the win rate of one model over another on the first test set, judged by gold.

    Args:
        one: Grading stage of the model.
        other: Grading stage of the baseline.
        model: Name of the model.
        baseline: Name of the baseline.

    Returns: Share of greedy answers that win, raw and at equal lengths, with 95% intervals; None if
        there is no gold score.
    """
    ours, theirs = (_answers(p.dir) for p in (one, other))
    if len(ours) != len(theirs):  # a file older than the seals, with a line missing
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
    except DataError:  # the lengths are equal in every pair, so there is no effect of length
        return found | {"lc": None, "lc_interval": None}
    return found | {"lc": fair.value, "lc_interval": fair.interval}


def _answers(stage: StageDir) -> list[dict[str, Any]]:
    """Return the answers to the first test set. Raises RunError: the file is damaged."""
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
            "command again to grade the model",
        )
    return [row for row in rows if row["set"] == rows[0]["set"]]


def _is_answer(row: Mapping[str, Any]) -> bool:
    gold = row.get("gold", False)
    return (
        isinstance(row.get("set"), str)
        and isinstance(row.get("answer"), str)
        and (gold is None or type(gold) in (int, float))
    )


def record(data: PosttrainResults) -> dict[str, Any]:
    """Return the results as JSON types, for programs."""
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
