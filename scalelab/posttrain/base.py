"""What a stage of post-training is: what is asked for, what it is given, what it leaves.

    file -> stages in order -> each: inputs by name -> work, step by step -> a stage directory

A stage's id hashes everything that decides it: its settings and name, the ids of the stages it
starts from, the base model, files that it names, the conversations, the seed. Where they lie is
not hashed. So within one post-training nothing is done twice, and nothing stale is taken for done.
The result holds the digests of what the stage leaves; they are verified before anything is used.

Units: flops in floating-point operations, tokens in tokens, *_bytes in bytes.
Not here: the loop (loop.py), the order and the processes (flow.py).
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor

from scalelab.config import Name, plugin
from scalelab.errors import DataError, RunError
from scalelab.evals.checkpoint import Checkpoint
from scalelab.evals.conversations import Conversations
from scalelab.evals.inputs import Reads
from scalelab.evals.reward_model import RewardModel
from scalelab.posttrain.display import Display
from scalelab.track.stages import REDO, STAGE_RESULT, StageResult, stage_id, stage_result
from scalelab.train import FIRST_OPTIMIZER, OPTIMIZERS
from scalelab.train.rundir import RunDir

FORMAT = 1
"""Version of everything that decides what a stage comes to. Raise it and all is done anew."""


Rates = plugin(OPTIMIZERS, "uniform", FIRST_OPTIMIZER)
"""The type of a stage's field that says how weights are updated: one rate for all of them."""


class Stage(Reads):
    """One step of post-training. Members add `kind: Literal[...]` and their settings.

    A member is one file and one line in STAGES: what it reads (inputs), what it leaves, its work,
    and what is shown of its result.
    """

    name: Name
    """What other stages and the report call it."""
    leaves: ClassVar[str | None] = None
    """What other stages may read of it: MODEL, REWARD, ANSWER_PAIRS (evals/inputs.py) or a kind of
    its own; None: nothing. Every stage that leaves a MODEL is graded and stands on the page."""

    def expand(self) -> "tuple[Stage, ...]":
        """The stages that it stands for: itself, or a series."""
        return (self,)

    def most_rows(self) -> tuple[int | None, float]:
        """Rows of text that the stage reads or writes at most, and how many times one goes
        forward through a model, the way back counted as two. None: nobody can say yet.
        """
        return None, 0.0

    def baseline(self) -> str | None:
        """The stage, or "base", whose model the one that it leaves is compared with."""
        return None

    def grade_of(self) -> str | None:
        """The stage whose model it grades; None: it does something else.

        A stage that grades leaves the tables and answers of grade.py, and has no row of its own
        in the tables of stages.
        """
        return None

    def is_interactive(self) -> bool:
        """Whether it asks a person at this terminal: then it is done in the command's process."""
        return False

    def display(self, result: StageResult) -> Display:
        """What is shown of a finished result beside its metrics and its cost."""
        del result
        return Display()

    def example(self, path: Path) -> str | None:
        """One thing that it did, in a line that is printed when it is done; from its directory."""
        del path

    @abstractmethod
    def work(self, given: "Given") -> "Work":
        """The work, ready to be done from step 0.

        Raises:
            DataError: The conversations or pairs cannot carry it.
            RunError: An input is missing or damaged.
        """


class Stopped(Exception):
    """A long step was stopped on request; the work has saved what it needs to go on."""


@dataclass(frozen=True, eq=False)
class Given:
    """What a stage is given."""

    stage: Stage
    conversations: Conversations
    seed: int
    paths: Mapping[str, Path]
    """The directory of each stage that it needs, and of the base model."""
    out: Path
    """Its own directory."""
    stop: Callable[[], bool] = lambda: False
    """Whether it is asked to save and stop. The loop asks before every step; work whose step is
    long asks on the way too, saves what it needs, and raises Stopped."""
    journal: Callable[..., None] = lambda event, **values: None
    """Appends an event to the stage's journal, for work whose step is long."""
    guard: Callable[[], None] = lambda: None
    """Raises leases.Taken once another process has taken over the stage. Work that writes into the
    directory on the way calls it before every write."""

    def model(self, name: str) -> Checkpoint:
        """The model of an earlier stage."""
        return Checkpoint.load(self.paths[name])

    def assistant(self, name: str) -> Checkpoint:
        """The same, where it has to be one that answers. Raises DataError: it is not."""
        model = self.model(name)
        if model.chat is None:
            raise DataError(
                f"the model {name!r} is a base model: it does not answer",
                where=f"stage {self.stage.name}, {self.paths[name]}",
                fix="put it through SFT first, and start from that stage",
            )
        return model

    def reward_model(self, name: str) -> RewardModel:
        """The reward model of an earlier stage."""
        return RewardModel.load(self.paths[name])


@dataclass(frozen=True)
class Step:
    """What one step, or one look at held-out prompts, came to."""

    numbers: Mapping[str, float] = field(default_factory=dict)
    """For the journal. A `loss` that is no number ends the stage as diverged."""
    tokens: float = 0.0
    """That went through the model; summed, as are the next two."""
    flops: float = 0.0
    """All that were spent."""
    flops_by: Mapping[str, float] = field(default_factory=dict)
    """What they were spent on, where that is told apart."""


@dataclass(frozen=True)
class Finished:
    """What the work of a stage came to."""

    metrics: Mapping[str, int | float | None]
    """None: not known. The last look's numbers stand before them in the result."""
    files: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of what others read, by name in the stage's directory."""
    tables: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Rows of JSON values, for the report."""
    memory_bytes: Mapping[str, int] = field(default_factory=dict)
    """Bytes that the method holds, by part, reckoned."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of libraries that did the work."""
    flops: float = 0.0
    """That no step has counted."""
    flops_by: Mapping[str, float] = field(default_factory=dict)


class Work(Protocol):
    """A stage being done. Step k depends on the seed and k, and on what was done before it."""

    n_steps: int
    eval_every: int | None
    """Steps between two evaluations; None: only at the end."""
    updates_within: int
    """Updates that a step makes, where it makes many and tells of them itself; else 1."""

    def step(self, k: int) -> Step:
        """Do step k."""

    def evaluate(self) -> Step:
        """Numbers on held-out prompts, now.

        The loop looks at every `eval_every` steps and before finish; the last look is among the
        metrics.
        """

    def tensors(self) -> dict[str, Tensor]:
        """All that a later process needs to go on."""

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what tensors() gave."""

    def finish(self, out: Path) -> Finished:
        """Write what the stage leaves into its directory, and report what it came to."""


Status = Literal["finished", "diverged"]


@dataclass(frozen=True)
class StageDir:
    """One stage on the disk. It has the paths and the journal of a run directory."""

    run_dir: RunDir

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.run_dir.path

    @property
    def id(self) -> str:
        """The stage's id: the end of the directory's name."""
        return stage_id(self.path)

    def result(self) -> StageResult | None:
        """What the stage came to; None while it has not. Raises RunError: it cannot be read."""
        return stage_result(self.path)

    def write_result(self, result: StageResult) -> StageResult:
        """Write the done-marker: the last thing that a stage does, and only once.

        Returns: The result that stands, which is the other one where there was one already.
        """
        self.run_dir.guard()
        if STAGE_RESULT.write_once(self.run_dir.result_path, result):
            return result
        return self.result() or result

    def check_outputs(self, *names: str) -> None:
        """Refuse files that the stage left and that are not as it wrote them.

        Args:
            names: Which; all where none is given. Stages from before the seals have no digests.

        Raises:
            RunError: The stage has no result, or a file is missing or was altered.
        """
        result = self.result()
        if result is None:
            raise RunError(
                f"the stage {self.path.name} has no result",
                where=str(self.path),
                fix="run the command that made the stage again",
            )
        for name in names or result.files:
            self.run_dir.check_file(name, result.files, REDO)
