"""Evaluation: run work items one after another and store the rows of each.

    runs/<name>/evals/<id>.json              rows of one work item, sealed
    runs/<name>/evals/<id>.verdicts.jsonl    verdicts of one judge, appended as they are given

The id hashes what determines the rows: the settings, the model's weights, the seed. So each item is
done once, and an interrupted evaluation resumes after the last stored item. A model that changed, or
an item whose file is damaged, is measured again.

With an executor, its jobs measure what they can first (jobs.py).

Not here: the measurements (measurement.py of each subfolder), the report (report/evaluation/).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalelab.evals.aggregate import ScoreTable, mean_above_chance, mean_win_rate
from scalelab.evals.jobs import measure_on
from scalelab.evals.measurement import MeasurementContext, MeasurementRow, RowKind
from scalelab.evals.request import EvalRequest
from scalelab.evals.stored_rows import rows_of_item
from scalelab.files import make_dir, place_of
from scalelab.leases import hold

AGGREGATE = RowKind("aggregate", "Over everything", tabulated=False)


SCHEMA = 1
"""Schema of evals.json."""


@dataclass(frozen=True, eq=False)
class EvalResult:
    """Rows of an evaluation. Values are measured unless RowKind.value_kinds or the row's text says otherwise."""

    context: MeasurementContext
    rows: Sequence[MeasurementRow]
    digests: Mapping[str, str]
    """Digest of the weights of each model."""

    @property
    def kinds(self) -> list[RowKind]:
        """Kinds of rows in the order of the report."""
        return [kind for section in self.context.file.sections.values() for kind in section.kinds]

    @property
    def values(self) -> dict[str, float | None]:
        """Every value by kind, model, name and key."""
        return {
            ".".join(str(part) for part in (row.kind, row.model, row.name, name) if part): value
            for row in self.rows
            for name, value in row.values.items()
        }

    def to_json(self) -> dict[str, Any]:
        """Return schema 1 of evals.json."""
        models = {
            name: {"dir": str(where), "digest": self.digests[name]}
            for name, where in self.context.models.items()
        }
        return {
            "schema": SCHEMA,
            "name": self.context.file.name,
            "file": self.context.file.model_dump(mode="json", exclude={"executor"}),
            "models": models,
            "measured": [vars(row) for row in self.rows],
        }


def evaluate(request: EvalRequest) -> EvalResult:
    """Run every measurement that is not stored yet and return all rows. Prints nothing.

    Args:
        request: The evaluation file and the directory of runs.

    Raises:
        ConfigError: A model does not exist, or a sweep has no finished runs.
        JobsLost: A job was killed again and again, or met a bug.
        KeyboardInterrupt: Jobs were asked to stop, and have.
        LaunchError: Another process is running this evaluation, or its executor cannot start.
        ScalelabError: A model or file cannot be read, or does not support a measurement.
    """
    context = request.context()
    problem = f"the evaluation {request.file.name!r} is being run by another process"
    with hold(place_of(request.root, request.file.name) / "eval.lock", problem, "wait for it, or stop it"):
        make_dir(context.folder)
        if request.file.executor is not None:
            measure_on(request.file.executor, request, context)
        rows = measure_all(context)
        return EvalResult(context, rows, {name: context.digest(name) for name in context.models})


def measure_all(context: MeasurementContext) -> list[MeasurementRow]:
    """Return all rows in the order of the report: model by model, then rows about several models.

    Raises:
        ScalelabError: A model or file cannot be read, or does not support a measurement.
    """
    sections = list(context.file.sections.values())
    asked = [(section, name) for name in context.models for section in sections if section.of_each_model]
    asked += [(section, None) for section in sections if not section.of_each_model]
    found = [
        row
        for section, name in asked
        for item in section.work_items(context, name)
        for row in rows_of_item(context, item)
    ]
    return [*found, *aggregates(found, [kind for section in sections for kind in section.kinds])]


def aggregates(found: Sequence[MeasurementRow], kinds: Sequence[RowKind]) -> list[MeasurementRow]:
    """Return aggregates over all rows with a score, with the models and scenarios they depend on."""
    scored = {kind.name: kind for kind in kinds if kind.score is not None}
    scores: dict[str, dict[str, float]] = {}
    lower, chance = set(), {}
    for one in found:
        if one.kind not in scored:
            continue
        kind = scored[one.kind]
        if kind.lower_is_better:
            lower.add(one.name)
        if kind.has_chance:
            chance[one.name] = one.chance or 0.0
        if kind.score in one.values:
            scores.setdefault(one.name, {})[one.model] = one.values[kind.score]
    models = list(dict.fromkeys(one.model for one in found if one.model is not None))
    made = []
    if len(models) > 1 and scores:
        won = mean_win_rate(_table(scores, models, lower))
        made.append(_aggregate("mean win rate", won))
    tasks = {name: row for name, row in scores.items() if name in chance}
    if tasks:
        above = mean_above_chance(_table(tasks, models, set()), {n: chance[n] for n in tasks})
        made.append(_aggregate("mean above chance", above))
    return made


def _table(scores: Mapping[str, Mapping[str, float]], models: Sequence[str], lower: set[str]):
    score = np.array([[row.get(m, np.nan) for row in scores.values()] for m in models], float)
    return ScoreTable(tuple(models), tuple(scores), score, frozenset(lower & set(scores)))


def _aggregate(name: str, found: Any) -> MeasurementRow:
    values = {
        model: None if np.isnan(value) else float(value)
        for model, value in zip(found.models, found.value, strict=True)
    }
    return MeasurementRow(AGGREGATE.name, name, None, values, found.summary())
