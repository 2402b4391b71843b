"""The measurement `prediction`: what a larger model would score on a task of the file.

Every finished run of a sweep is asked the task; the rest is fitted.

Not here: the fits (evals/predict.py, recipes.py).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from scalelab.config import Config, Flops, Positive
from scalelab.errors import DataError
from scalelab.evals.checkpoint import Checkpoint
from scalelab.evals.inputs import contents
from scalelab.evals.measurements.base import Bench, Kind, Measured, Measurement, Piece
from scalelab.evals.predict import Target, predict
from scalelab.evals.recipes import rank_recipes


class PredictionSpec(Config):
    """What a larger model would score on a task, from every finished run of a sweep."""

    sweep: str
    """Whose runs are asked."""
    task: str
    """Of `tasks`, by its name; of a choice task its mode `full` is used."""
    against: tuple[str, ...] = ()
    """Sweeps of other recipes: how often one small scale, and two steps, know the better one."""
    flops: Flops | None = None
    """Compute of the model that is asked about; None: ten times the largest run."""
    n_params: Positive | None = None
    n_tokens: Positive | None = None
    form: Literal["compute", "size"] = "compute"
    """What loss is predicted from: compute, or parameters and tokens."""


class PredictionMeasurement(Measurement):
    """Predictions of scores."""

    kinds: ClassVar[tuple[Kind, ...]] = (Kind("prediction", "Downstream prediction"),)
    of_each_model: ClassVar[bool] = False
    prediction: tuple[PredictionSpec, ...] = ()

    def check(self, file: Any) -> None:
        """See Measurement."""
        tasks = {task.name for task in file.tasks}
        for asked in self.prediction:
            if asked.task not in tasks:
                raise ValueError(
                    f"prediction.task {asked.task!r} is none of the tasks "
                    f"({', '.join(sorted(tasks)) or 'there are none'})"
                )

    def sweeps(self) -> tuple[str, ...]:
        """Sweeps that scores are predicted from."""
        return tuple(name for asked in self.prediction for name in (asked.sweep, *asked.against))

    def describe(self, bench: Bench) -> Sequence[str]:
        """See Measurement."""
        return [
            f"prediction: {asked.task} from {len(bench.runs[asked.sweep])} runs of {asked.sweep}"
            for asked in self.prediction
        ]

    def pieces(self, bench: Bench, model: None) -> Iterator[Piece]:
        """See Measurement."""
        del model
        for asked in self.prediction:
            task = next(task for task in bench.file.tasks if task.name == asked.task)
            sweeps = (asked.sweep, *asked.against)
            what = ["prediction", asked.model_dump_json(), task.model_dump_json()]
            what += [[contents(run.path) for sweep in sweeps for run in bench.runs[sweep]]]
            what += [[contents(Path(file)) for file in task.files()]]
            yield Piece(
                [*what, bench.file.limit, bench.file.seed],
                lambda asked=asked, task=task: _measure(bench, asked, task),
            )


def _measure(bench: Bench, asked: PredictionSpec, task: Any) -> Iterator[Measured]:
    sweeps = (asked.sweep, *asked.against)
    rows, chance = [], 0.0
    for sweep in sweeps:
        more, chance = _scores_of(bench, task, sweep)
        rows += more
    own = [row for row in rows if row["recipe"] == asked.sweep]
    largest = max(row["flops"] for row in own)
    target = Target(asked.flops or 10 * largest, asked.n_params, asked.n_tokens)
    found = predict(own, task.name, target, chance=chance, form=asked.form, seed=bench.file.seed)
    values = {
        "accuracy": found.accuracy,
        "accuracy_low": found.accuracy_interval[0],
        "accuracy_high": found.accuracy_interval[1],
        "loss": found.loss,
        "carried": found.carried,
        "predictable": float(found.is_predictable),
    }
    yield Measured("prediction", f"{asked.task} from {asked.sweep}", None, values, found.text)
    if asked.against:
        ranked = rank_recipes(rows, task.name, chance=chance, form=asked.form)
        name = f"{asked.task}: the better of {len(sweeps)} recipes"
        values = {
            "by_accuracy": ranked.by_accuracy,
            "by_loss": ranked.by_loss,
            "by_two_steps": ranked.by_two_steps,
        }
        yield Measured("prediction", name, None, values, ranked.text)


def _scores_of(bench: Bench, task: Any, sweep: str) -> tuple[list[dict[str, Any]], float]:
    """What every run of a sweep scores on a task, as rows, and what a guess scores."""
    from scalelab.evals.choice import evaluate  # lm-eval only where it is used

    rows, chance = [], 0.0
    for run in bench.runs[sweep]:
        scores = evaluate(
            Checkpoint.load(run.path), [task], limit=bench.file.limit, chat=False,
            seed=bench.file.seed,
        )  # fmt: skip
        score = next((s for s in scores if s.mode == "full"), None)
        if score is None:
            raise DataError(
                f"the task {task.name!r} has no mode full: its loss cannot be followed",
                where="prediction",
                fix="give the task modes: [full]",
            )
        chance = score.chance
        rows.append({
            "task": task.name, "recipe": sweep, "flops": run.flops,
            "n_params": run.n_params, "n_tokens": run.n_tokens,
            "task_loss": score.loss_per_token.value, "accuracy": score.accuracy.value,
            "n_items": score.accuracy.n,
        })  # fmt: skip
    return rows, chance
