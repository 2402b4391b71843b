"""What a measurement of `scalelab eval` is: its fields of the file, its work, its rows.

    fields -> pieces of work, each done once and kept -> rows

The fields of a member are fields of an evaluation file (evalfile.py), under their own names. A
piece of work has an id: a hash of what decides it. So it is done once, an evaluation that was
killed goes on behind the last piece that was kept, and a model that changed is measured anew.

Not here: where rows are kept (report/measuring.py), the page (report/eval_command.py).
"""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from scalelab.evals.checkpoint import Checkpoint
from scalelab.evals.inputs import Input, Reads

if TYPE_CHECKING:
    from scalelab.evals.evalfile import EvalFile

FORMAT = 1
"""Raise it where a measurement would come out otherwise: all are made anew."""


@dataclass(frozen=True)
class Measured:
    """One row: a measurement as it is kept, printed and sent to MLflow."""

    kind: str
    """One of the kinds that its measurement declares."""
    name: str
    model: str | None
    """Of which model; None: of several."""
    values: Mapping[str, int | float | None]
    """By name, for tables and MLflow."""
    text: str
    """In words, each number with what it is."""
    chance: float | None = None
    """Of a choice task."""


@dataclass(frozen=True)
class Kind:
    """How rows of one kind are shown, and combined over all measurements."""

    name: str
    title: str
    """Of its section on the page."""
    score: str | None = None
    """The value that says how good a model is: it stands in a table of its own, models by rows,
    and enters the means over everything. None: no value does."""
    score_title: str = ""
    lower_is_better: bool = False
    has_chance: bool = False
    """Whether the score is an accuracy that a guess has too."""


@dataclass(frozen=True)
class Piece:
    """Work that is done once, and whose rows are kept."""

    decided_by: Sequence[Any]
    """JSON values: everything that decides the rows."""
    make: Callable[[], Iterable[Measured]]

    @property
    def id(self) -> str:
        """Sixteen hex digits of what decides it."""
        return piece_id(self.decided_by)


def piece_id(decided_by: Sequence[Any]) -> str:
    """Sixteen hex digits of JSON values."""
    text = json.dumps([FORMAT, *decided_by], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class FinishedRun:
    """A finished run of a sweep."""

    path: Path
    flops: float
    n_params: float
    """In products with activations (n_params_matmul)."""
    n_tokens: float


@dataclass(eq=False)
class Bench:
    """What measurements are made with: the file, its models, and what else they asked for."""

    file: "EvalFile"
    models: Mapping[str, Path]
    """Directory of each model."""
    inputs: Mapping[str, Path] = field(default_factory=dict)
    """Directory of each input of a measurement, by the name that `inputs` gives it."""
    runs: Mapping[str, Sequence[FinishedRun]] = field(default_factory=dict)
    """Finished runs of each sweep that `sweeps` names."""
    folder: Path = Path()
    """Where rows are kept, and what a measurement keeps on its way."""
    tell: Callable[[str], None] = lambda said: None
    """Reports progress, and damage that was found."""
    _loaded: dict[Path, Checkpoint] = field(default_factory=dict)

    def model(self, name: str) -> Checkpoint:
        """A model of the file, loaded once. Raises RunError, DataError: it cannot be loaded."""
        path = self.models[name]
        if path not in self._loaded:
            self._loaded[path] = Checkpoint.load(path)
        return self._loaded[path]

    def digest(self, name: str) -> str:
        """What names a model's weights."""
        return self.model(name).digest


class Measurement(Reads):
    """One measurement. Members declare fields with defaults, under which nothing is measured."""

    kinds: ClassVar[tuple[Kind, ...]]
    """Of its rows, in the order of the page."""
    of_each_model: ClassVar[bool] = True
    """Whether every model is measured by itself; else all are measured together, once."""

    def is_asked(self) -> bool:
        """Whether anything is to be measured: whether a field differs from its default."""
        return self != type(self)()

    def names(self) -> tuple[str, ...]:
        """Names of its rows as the file gives them. Two rows that enter one table cannot share a
        name.
        """
        return ()

    def check(self, file: "EvalFile") -> None:
        """Refuse fields that contradict the rest of a file. Raises ValueError."""

    def inputs(self) -> tuple[Input, ...]:
        """Models that it reads beside those that are measured."""
        return ()

    def sweeps(self) -> tuple[str, ...]:
        """Sweeps whose finished runs it reads."""
        return ()

    @abstractmethod
    def describe(self, bench: Bench) -> Sequence[str]:
        """What will be measured, a line each, for a dry run."""

    @abstractmethod
    def pieces(self, bench: Bench, model: str | None) -> Iterator[Piece]:
        """The work, in order.

        Args:
            bench: What it is made with.
            model: Name of the model; None where all are measured together.

        Raises:
            ScalelabError: A file or model that it needs is missing or damaged.
        """
