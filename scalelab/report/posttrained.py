"""What a post-training came to, as numbers: one row a model, one a stage, and the curves.

Accuracy and gold are measured on held-out prompts, with the standard error of the mean over
prompts; bits per byte on the base's own validation text. Win rates are of greedy answers to the
same prompts, judged by gold; at equal lengths by the regression of evals/length.py. FLOPs and
bytes are reckoned, not measured, and every number says which.

Not here: figures (posttrain_figures.py), the page (posttrain_page.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scalelab.errors import DataError, RunError
from scalelab.evals.judgments import Judgments
from scalelab.evals.pairwise import length_controlled, win_rate
from scalelab.posttrain.base import StageDir, StageResult
from scalelab.posttrain.flow import BASE, MODELS, Planned
from scalelab.posttrain.grade import ANSWERS
from scalelab.sealed import read_lines

SCHEMA = 1
SINGLE = 20
"""Points of a curve beyond which each is a single batch, and noisy."""


@dataclass(frozen=True)
class Graded:
    """One model and what it can do."""

    model: str
    kind: str
    start: str | None
    """What it began as."""
    sets: Mapping[str, Mapping[str, Any]]
    """By test set: n, accuracy, accuracy_se, gold, gold_se, words, ended."""
    bpb: float | None
    """On the base's validation text."""
    flops: float | None
    """Of the stage that made it; None for the base."""
    wins: Mapping[str, Any] | None = None
    """Win rate over the model that it began as, raw and at equal lengths."""


@dataclass(frozen=True)
class Curve:
    """Proxy and gold, further and further from the model that it began as."""

    name: str
    kl: Sequence[float]
    proxy: Sequence[float]
    gold: Sequence[float]
    kl_is: str
    """How KL is known: by formula, or estimated from what was written."""

    def steadied(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """KL, proxy and gold; where points are single batches, means over tenths of the way."""
        columns = tuple(np.asarray(c, float) for c in (self.kl, self.proxy, self.gold))
        if len(self.kl) <= SINGLE:
            return columns
        return tuple(
            np.array([part.mean() for part in np.array_split(column, 10)]) for column in columns
        )


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
    series: Sequence[tuple[int, Mapping[str, Any]]]
    """Of SFT: examples, and the grades of the first test set."""
    curves: Sequence[Curve]
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
    models = []
    for name in (BASE, *(p.name for p in planned if p.spec.stage.kind in MODELS)):
        grade = results.get(f"grade.{name}")
        if grade is None or grade.status != "finished":
            continue
        stage = by_name[name].spec.stage if name in by_name else None
        rows = {row["set"]: row for row in grade.tables["sets"]}
        text = rows.pop("base text", None)
        start = None if stage is None else stage.start
        wins = None
        if start is not None and start != BASE and results.get(f"grade.{start}") is not None:
            wins = wins_over(by_name[f"grade.{name}"], by_name[f"grade.{start}"], name, start)
        models.append(
            Graded(
                model=name,
                kind="base" if stage is None else stage.kind,
                start=start,
                sets=rows,
                bpb=None if text is None else text["bpb"],
                flops=None if stage is None else results[name].flops,
                wins=wins,
            )
        )
    return Posttrained(
        name=file.name,
        question=file.question,
        prediction=file.prediction,
        base=base,
        seed=file.seed,
        models=models,
        stages=[r for r in results.values() if r is not None],
        undone={n: why.get(n, "not begun") for n, r in results.items() if r is None},
        series=_series(planned, results, models),
        curves=_curves(planned, results),
        journals={
            p.name: [e for e in p.dir.run_dir.events() if e["event"] == "eval"]
            for p in planned
            if p.spec.stage.kind in MODELS
        },
    )


def _series(planned, results, models) -> list[tuple[int, Mapping[str, Any]]]:
    """The largest group of SFT models that differ in examples alone, by their number."""
    graded = {m.model: m for m in models if m.sets}
    groups: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    for p in planned:
        if p.spec.stage.kind == "sft" and results[p.name] is not None and p.name in graded:
            same = p.spec.stage.model_dump_json(exclude={"name", "examples"})
            n = int(results[p.name].metrics["examples"])
            first = next(iter(graded[p.name].sets.values()))
            groups.setdefault(same, []).append((n, first))
    series = max(groups.values(), key=len, default=[])
    return sorted(series, key=lambda pair: pair[0]) if len(series) > 1 else []


def _curves(planned: Sequence[Planned], results: Mapping[str, StageResult | None]) -> list[Curve]:
    curves = []
    for p in planned:
        result = results[p.name]
        if result is None:
            continue
        rows = result.tables.get("best_of") or [
            row for row in result.tables.get("course", []) if row["proxy"] is not None
        ]
        rows = [row for row in rows if row["gold"] is not None and row["proxy"] is not None]
        if rows:
            columns = [[row[name] for row in rows] for name in ("kl", "proxy", "gold")]
            kl_is = "by formula" if p.spec.stage.kind == "best_of" else "estimated"
            curves.append(Curve(p.name, *columns, kl_is))
    return curves


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
        "models": [vars(m) for m in data.models],
        "stages": [vars(s) for s in data.stages],
        "undone": dict(data.undone),
        "series": [{"examples": n, **row} for n, row in data.series],
        "curves": [vars(c) for c in data.curves],
        "flops": data.flops,
        "flops_is": "reckoned",
        "seconds": data.seconds,
    }
