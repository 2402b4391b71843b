"""The measurement `tasks`: multiple choice and written answers, through lm-eval (extra `eval`).

A model that can converse is asked both ways, as text and as a conversation, and the two are
compared. Where `exported` is set an exported copy is asked too.

Not here: what a task is (evals/task.py), how a model is asked (evals/harness.py).
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from scalelab.config import Count, Switch, plugin
from scalelab.evals import TASKS
from scalelab.evals.checkpoint import Checkpoint
from scalelab.evals.inputs import contents
from scalelab.evals.measurements.base import Bench, Kind, Measured, Measurement, Piece


class TasksMeasurement(Measurement):
    """Scores of each model on each task."""

    kinds: ClassVar[tuple[Kind, ...]] = (
        Kind("task", "Tasks", "accuracy", "Accuracy [measured]", has_chance=True),
        Kind("side_by_side", "The same model, asked in two ways"),
        Kind("exported", "Exported copies"),
    )
    tasks: tuple[plugin(TASKS), ...] = ()
    """Multiple choice and written answers, through lm-eval (extra `eval`)."""
    chat: Switch | None = None
    """Put tasks as conversations. None: both ways, where a model can converse."""
    limit: Count | None = None
    """First rows of each task. None: all."""
    exported: Switch = False
    """Ask an exported copy of every model too, and say how far the numbers agree."""

    def is_asked(self) -> bool:
        """See Measurement."""
        return bool(self.tasks)

    def names(self) -> tuple[str, ...]:
        """Of the tasks."""
        return tuple(task.name for task in self.tasks)

    def describe(self, bench: Bench) -> Sequence[str]:
        """See Measurement."""
        return [f"tasks: {', '.join(self.names())}"]

    def pieces(self, bench: Bench, model: str) -> Iterator[Piece]:
        """See Measurement."""
        fields = {"tasks", "chat", "limit", "seed", "exported"}
        settings = bench.file.model_dump_json(include=fields)
        rows = [contents(Path(file)) for task in self.tasks for file in task.files()]
        what = ["tasks", model, bench.digest(model), settings, rows]
        yield Piece(what, lambda: self._measure(bench, model))

    def _measure(self, bench: Bench, name: str) -> Iterator[Measured]:
        from scalelab.evals.scores import side_by_side  # lm-eval only where it is used

        model = bench.model(name)
        scores = self._scores(bench, model, model)
        yield from (_scored(score, name) for score in scores)
        if self.exported:
            yield from self._compared(bench, name, scores)
        for task in dict.fromkeys(score.group for score in scores):
            same = [score for score in scores if score.group == task]
            for pair in side_by_side(same) if len(same) > 1 else ():
                values = {"difference": pair.difference.value}
                yield Measured("side_by_side", task, name, values, pair.text)

    def _scores(self, bench: Bench, model: Checkpoint, asked: Checkpoint | Path) -> list[Any]:
        """Scores of a model in every way that it can be asked; `asked` is it, or its copy."""
        from scalelab.evals.choice import evaluate

        ways = [False, True] if model.chat is not None else [False]
        return [
            score
            for chat in (ways if self.chat is None else [self.chat])
            for score in evaluate(
                asked, self.tasks, limit=self.limit, chat=chat, seed=bench.file.seed
            )
        ]

    def _compared(self, bench: Bench, name: str, scores: Sequence[Any]) -> Iterator[Measured]:
        """The same tasks through an exported copy, and how far its numbers are from ours."""
        from scalelab.evals.exported import export_checkpoint

        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "exported"
            export_checkpoint(bench.model(name), out)
            theirs = self._scores(bench, bench.model(name), out)
        for ours, other in zip(scores, theirs, strict=True):
            values = {"accuracy_gap": abs(ours.accuracy.value - other.accuracy.value)}
            if (gap := ours.nats_gap(other)) is not None:
                values["largest_nats_gap"] = gap
            words = ", ".join(f"{k.replace('_', ' ')} {v:.2g}" for k, v in values.items())
            text = f"{ours.task}: exported copy against the model in process: {words} [measured]"
            yield Measured("exported", ours.task, name, values, text)


def _scored(score: Any, model: str) -> Measured:
    """A score of lm-eval's as a row."""
    way = " as conversation" if score.conditions.chat else ""
    mode = "" if score.task.endswith(f".{score.mode}") else f".{score.mode}"
    name = f"{score.task}{mode}{way}"
    return Measured("task", name, model, score.values(), score.text, score.chance)
