"""The measurement `tasks`: multiple choice and generated answers, with lm-eval (extra `eval`).

A chat model is asked both as plain text and as a conversation, and the two are compared. With
`exported`, an exported copy is evaluated too.

Not here: the interface of a task (tasks/base.py), the call to lm-eval (tasks/harness.py).
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from scalelab.config import Count, Switch, plugin
from scalelab.evals import TASKS
from scalelab.evals.checkpoint import Checkpoint
from scalelab.evals.inputs import contents
from scalelab.evals.measurement import Measurement, MeasurementContext, MeasurementRow, RowKind, WorkItem


class TasksMeasurement(Measurement):
    """Scores of each model on each task."""

    kinds: ClassVar[tuple[RowKind, ...]] = (
        RowKind("task", "Tasks", "accuracy", "Accuracy [measured]", has_chance=True),
        RowKind("side_by_side", "Plain text and conversation compared"),
        RowKind("exported", "Exported copies"),
    )
    tasks: tuple[plugin(TASKS), ...] = ()
    """Multiple choice and generated answers, with lm-eval (extra `eval`)."""
    chat: Switch | None = None
    """Ask as conversations. None: both ways for a chat model."""
    limit: Count | None = None
    """Number of rows of each task, from the first. None: all."""
    exported: Switch = False
    """Evaluate an exported copy of every model too, and report the differences."""

    def is_requested(self) -> bool:
        """See Measurement."""
        return bool(self.tasks)

    def names(self) -> tuple[str, ...]:
        """Return the names of the tasks."""
        return tuple(task.name for task in self.tasks)

    def describe(self, context: MeasurementContext) -> Sequence[str]:
        """See Measurement."""
        return [f"tasks: {', '.join(self.names())}"]

    def work_items(self, context: MeasurementContext, model: str) -> Iterator[WorkItem]:
        """See Measurement."""
        fields = {"tasks", "chat", "limit", "seed", "exported"}
        settings = context.file.model_dump_json(include=fields)
        rows = [contents(Path(file)) for task in self.tasks for file in task.files()]
        what = ["tasks", model, context.digest(model), settings, rows]
        yield WorkItem(what, lambda: self._measure(context, model))

    def _measure(self, context: MeasurementContext, name: str) -> Iterator[MeasurementRow]:
        from scalelab.evals.tasks.scores import side_by_side  # lm-eval only where it is used

        model = context.model(name)
        scores = self._scores(context, model, model)
        yield from (_scored(score, name) for score in scores)
        if self.exported:
            yield from self._compared(context, name, scores)
        for task in dict.fromkeys(score.group for score in scores):
            same = [score for score in scores if score.group == task]
            for pair in side_by_side(same) if len(same) > 1 else ():
                values = {"difference": pair.difference.value}
                yield MeasurementRow("side_by_side", task, name, values, pair.text)

    def _scores(self, context: MeasurementContext, model: Checkpoint, asked: Checkpoint | Path) -> list[Any]:
        """Return scores as text and as conversation; `asked` is the model or its exported copy."""
        from scalelab.evals.tasks.multiple_choice import evaluate

        ways = [False, True] if model.chat is not None else [False]
        return [
            score
            for chat in (ways if self.chat is None else [self.chat])
            for score in evaluate(asked, self.tasks, limit=self.limit, chat=chat, seed=context.file.seed)
        ]

    def _compared(
        self, context: MeasurementContext, name: str, scores: Sequence[Any]
    ) -> Iterator[MeasurementRow]:
        """Yield the differences between an exported copy and the model in process."""
        from scalelab.evals.export import export_checkpoint

        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "exported"
            export_checkpoint(context.model(name), out)
            theirs = self._scores(context, context.model(name), out)
        for ours, other in zip(scores, theirs, strict=True):
            values = {"accuracy_gap": abs(ours.accuracy.value - other.accuracy.value)}
            if (gap := ours.nats_gap(other)) is not None:
                values["largest_nats_gap"] = gap
            words = ", ".join(f"{k.replace('_', ' ')} {v:.2g}" for k, v in values.items())
            text = f"{ours.task}: exported copy against the model in process: {words} [measured]"
            yield MeasurementRow("exported", ours.task, name, values, text)


def _scored(score: Any, model: str) -> MeasurementRow:
    """Return a score as a row."""
    way = " as conversation" if score.conditions.chat else ""
    mode = "" if score.task.endswith(f".{score.mode}") else f".{score.mode}"
    name = f"{score.task}{mode}{way}"
    return MeasurementRow("task", name, model, score.values(), score.text, score.chance)
