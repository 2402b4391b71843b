"""The measurement `prediction`: predicted score of a larger model on a task of the file.

Every finished run of a sweep is evaluated on the task; the prediction is fitted to the scores.

Not here: the fits (evals/predict/prediction.py, recipes.py).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from scalelab.config import Config, Flops, Positive
from scalelab.errors import DataError
from scalelab.evals.checkpoint import Checkpoint
from scalelab.evals.inputs import contents
from scalelab.evals.measurement import Measurement, MeasurementContext, MeasurementRow, RowKind, WorkItem
from scalelab.evals.predict.prediction import PredictionTarget, predict
from scalelab.evals.predict.recipes import rank_recipes


class PredictionSpec(Config):
    """Prediction of a larger model's score on a task from the finished runs of a sweep."""

    sweep: str
    """Sweep whose runs are evaluated."""
    task: str
    """Name of one of `tasks`; a choice task is used in mode `full`."""
    against: tuple[str, ...] = ()
    """Sweeps of other recipes, to measure how often small scales identify the better recipe."""
    flops: Flops | None = None
    """Training compute of the predicted model in FLOPs; None: ten times the largest run."""
    n_params: Positive | None = None
    n_tokens: Positive | None = None
    form: Literal["compute", "size"] = "compute"
    """Predictors of the loss: compute, or parameters and tokens."""


class PredictionMeasurement(Measurement):
    """Predictions of scores."""

    kinds: ClassVar[tuple[RowKind, ...]] = (RowKind("prediction", "Downstream prediction", tabulated=False),)
    of_each_model: ClassVar[bool] = False
    prediction: tuple[PredictionSpec, ...] = ()

    def check(self, file: Any) -> None:
        """See Measurement."""
        tasks = {task.name for task in file.tasks}
        for spec in self.prediction:
            if spec.task not in tasks:
                raise ValueError(
                    f"prediction.task {spec.task!r} is none of the tasks "
                    f"({', '.join(sorted(tasks)) or 'there are none'})"
                )

    def sweeps(self) -> tuple[str, ...]:
        """Return the sweeps that scores are predicted from."""
        return tuple(name for spec in self.prediction for name in (spec.sweep, *spec.against))

    def describe(self, context: MeasurementContext) -> Sequence[str]:
        """See Measurement."""
        return [
            f"prediction: {spec.task} from {len(context.runs[spec.sweep])} runs of {spec.sweep}"
            for spec in self.prediction
        ]

    def work_items(self, context: MeasurementContext, model: None) -> Iterator[WorkItem]:
        """See Measurement."""
        del model
        for spec in self.prediction:
            task = next(task for task in context.file.tasks if task.name == spec.task)
            sweeps = (spec.sweep, *spec.against)
            what = ["prediction", spec.model_dump_json(), task.model_dump_json()]
            what += [[contents(run.path) for sweep in sweeps for run in context.runs[sweep]]]
            what += [[contents(Path(file)) for file in task.files()]]
            yield WorkItem(
                [*what, context.file.limit, context.file.seed],
                lambda spec=spec, task=task: _measure(context, spec, task),
            )


def _measure(context: MeasurementContext, spec: PredictionSpec, task: Any) -> Iterator[MeasurementRow]:
    sweeps = (spec.sweep, *spec.against)
    rows, chance = [], 0.0
    for sweep in sweeps:
        more, chance = _scores_of(context, task, sweep)
        rows += more
    own = [row for row in rows if row["recipe"] == spec.sweep]
    largest = max(row["flops"] for row in own)
    target = PredictionTarget(spec.flops or 10 * largest, spec.n_params, spec.n_tokens)
    found = predict(own, task.name, target, chance=chance, form=spec.form, seed=context.file.seed)
    values = {
        "accuracy": found.accuracy,
        "accuracy_low": found.accuracy_interval[0],
        "accuracy_high": found.accuracy_interval[1],
        "loss": found.loss,
        "carried": found.carried,
        "predictable": float(found.is_predictable),
    }
    yield MeasurementRow("prediction", f"{spec.task} from {spec.sweep}", None, values, found.text)
    if spec.against:
        ranked = rank_recipes(rows, task.name, chance=chance, form=spec.form)
        name = f"{spec.task}: the better of {len(sweeps)} recipes"
        values = {
            "by_accuracy": ranked.by_accuracy,
            "by_loss": ranked.by_loss,
            "by_two_steps": ranked.by_two_steps,
        }
        yield MeasurementRow("prediction", name, None, values, ranked.text)


def _scores_of(context: MeasurementContext, task: Any, sweep: str) -> tuple[list[dict[str, Any]], float]:
    """Return the scores of every run of a sweep on a task as rows, and the chance level."""
    from scalelab.evals.tasks.multiple_choice import evaluate  # lm-eval only where it is used

    rows, chance = [], 0.0
    for run in context.runs[sweep]:
        scores = evaluate(
            Checkpoint.load(run.path), [task], limit=context.file.limit, chat=False, seed=context.file.seed
        )
        score = next((s for s in scores if s.mode == "full"), None)
        if score is None:
            raise DataError(
                f"the task {task.name!r} has no mode full: its loss cannot be followed",
                where="prediction",
                fix="give the task modes: [full]",
            )
        chance = score.chance
        rows.append(
            {
                "task": task.name,
                "recipe": sweep,
                "flops": run.flops,
                "n_params": run.n_params,
                "n_tokens": run.n_tokens,
                "task_loss": score.loss_per_token.value,
                "accuracy": score.accuracy.value,
                "n_items": score.accuracy.n,
            }
        )
    return rows, chance
