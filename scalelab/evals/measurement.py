"""A measurement of `scalelab eval`: its fields of the evaluation file, its work and its rows.

    fields -> work items, each done once and stored -> rows

The fields of a member are fields of an evaluation file (file.py), under their own names. The id of a
work item is a hash of everything that determines its rows. So each item is done once, an interrupted
evaluation resumes after the last stored item, and a model that changed is measured again.

Not here: where rows are stored (evaluation_runner.py), the report (report/evaluation/).
"""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from scalelab.evals.checkpoint import Checkpoint
from scalelab.evals.inputs import ConfigWithInputs, Input


class EvaluationSettings(Protocol):
    """Fields of an evaluation file that every measurement can read."""

    name: str
    models: Mapping[str, str]
    """Where each model is, by the name that the file gives it."""
    seed: int
    sections: "Mapping[str, Measurement]"
    """Requested measurements by name."""


FORMAT = 1
"""Version of all measurements. Increase it when results would change: everything is measured again."""


@dataclass(frozen=True)
class MeasurementRow:
    """One result as it is stored, shown and logged to MLflow."""

    kind: str
    """Name of one of the kinds that its measurement declares."""
    name: str
    model: str | None
    """Name of the model; None if the row is about several."""
    values: Mapping[str, int | float | None]
    """Values by name, for tables and MLflow."""
    text: str
    """The result in sentences, each number with its kind."""
    chance: float | None = None
    """Accuracy of guessing in a choice task, 0 to 1; None for other rows."""


@dataclass(frozen=True)
class RowKind:
    """How rows of one kind are shown and aggregated."""

    name: str
    title: str
    """Heading of its section in the report."""
    score: str | None = None
    """Name of the value that scores a model: it is shown in a table of models by rows and enters the
    aggregates. None: these rows have no score."""
    score_title: str = ""
    lower_is_better: bool = False
    has_chance: bool = False
    """Whether the score is an accuracy, so that guessing has one too."""
    value_kinds: Mapping[str, str] = field(default_factory=dict)
    """Kinds of the values that are not measured, by the name of the value or of the row: fitted,
    extrapolated, simulated, assumed, literature or computed."""
    tabulated: bool = True
    """Whether the values are shown as a table. False: the text of a row shows them, with their kind."""

    def kind_of(self, row: MeasurementRow, name: str) -> str:
        """Return where a value of a row comes from: "measured" unless declared otherwise."""
        return self.value_kinds.get(name) or self.value_kinds.get(row.name) or "measured"


@dataclass(frozen=True)
class WorkItem:
    """Work that is done once and whose rows are stored."""

    decided_by: Sequence[Any]
    """JSON values: everything that determines the rows."""
    make: Callable[[], Iterable[MeasurementRow]]

    @property
    def id(self) -> str:
        """Sixteen hex digits of what determines the rows."""
        return work_item_id(self.decided_by)


def work_item_id(decided_by: Sequence[Any]) -> str:
    """Return sixteen hex digits of JSON values."""
    text = json.dumps([FORMAT, *decided_by], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class FinishedRun:
    """A finished run of a sweep."""

    path: Path
    flops: float
    n_params: float
    """Parameters in matrix products (n_params_matmul)."""
    n_tokens: float


@dataclass(eq=False)
class MeasurementContext:
    """What measurements work with: the file, its models, inputs and sweeps."""

    file: Any
    models: Mapping[str, Path]
    """Directory of each model."""
    inputs: Mapping[str, Path] = field(default_factory=dict)
    """Directory of each input of a measurement, by its name in `Measurement.inputs`."""
    runs: Mapping[str, Sequence[FinishedRun]] = field(default_factory=dict)
    """Finished runs of each sweep in `Measurement.sweeps`."""
    folder: Path = Path()
    """Directory for rows and for other files of a measurement."""
    report: Callable[[str], None] = lambda text: None
    """Reports progress and damaged files, one line a call."""
    _loaded: dict[Path, Checkpoint] = field(default_factory=dict)

    def model(self, name: str) -> Checkpoint:
        """Return a model of the file, loaded once. Raises RunError or DataError if it cannot be loaded."""
        path = self.models[name]
        if path not in self._loaded:
            self._loaded[path] = Checkpoint.load(path)
        return self._loaded[path]

    def digest(self, name: str) -> str:
        """Return the digest of a model's weights, config and tokenizer."""
        return self.model(name).digest


class Measurement(ConfigWithInputs):
    """A measurement. Members declare fields; with the defaults of all fields nothing is measured."""

    kinds: ClassVar[tuple[RowKind, ...]]
    """Kinds of its rows, in the order of the report."""
    of_each_model: ClassVar[bool] = True
    """Whether each model is measured on its own. False: all models are measured together, once."""

    def is_requested(self) -> bool:
        """Whether anything is measured: True if a field differs from its default."""
        return self != type(self)()

    def names(self) -> tuple[str, ...]:
        """Return the names that the file gives to its rows. They are unique within a table."""
        return ()

    def check(self, file: EvaluationSettings) -> None:
        """Refuse fields that contradict the rest of a file. Raises ValueError."""

    def is_interactive(self) -> bool:
        """Return whether it asks questions at the terminal, and so runs in the command's own process."""
        return False

    def inputs(self) -> tuple[Input, ...]:
        """Return the models that it reads besides those that are measured."""
        return ()

    def sweeps(self) -> tuple[str, ...]:
        """Return the sweeps whose finished runs it reads."""
        return ()

    @abstractmethod
    def describe(self, context: MeasurementContext) -> Sequence[str]:
        """Return what will be measured, one line for each set, task or comparison."""

    @abstractmethod
    def work_items(self, context: MeasurementContext, model: str | None) -> Iterator[WorkItem]:
        """Yield the work in order.

        Args:
            context: The file, its models, inputs and sweeps.
            model: Name of the model; None if all are measured together.

        Raises:
            ScalelabError: A file or model is missing or damaged.
        """
