"""The interface of a post-training stage: its config, its context, its job and its result.

    file -> stages in order -> each: inputs by name -> a job, step by step -> a stage directory

A stage's id hashes everything that decides its result: its settings and name, the ids of its input
stages, the base model, the files it names, the conversations and the seed, but not their paths.
A finished stage is therefore never repeated, and a stale one is never reused. The result holds the
digests of the stage's output files, which are verified before anything reads them.

Units: flops in floating-point operations, tokens in tokens, *_bytes in bytes.
Not here: the loop (loop.py), the order of stages (pipeline.py), the processes (worker.py).
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
from scalelab.evals.conversations.base import Conversations
from scalelab.evals.inputs import ConfigWithInputs
from scalelab.evals.reward_model import RewardModel
from scalelab.posttrain.display import StageDisplay
from scalelab.records.stage_manifest import REDO, STAGE_RESULT, StageResult, stage_id, stage_result
from scalelab.train import FIRST_OPTIMIZER, OPTIMIZERS
from scalelab.train.run_directory import RunDir

FORMAT = 1
"""Version of everything that decides a stage's result. Raising it repeats every stage."""

OptimizerSetting = plugin(OPTIMIZERS, "uniform", FIRST_OPTIMIZER)
"""Field type of a stage's optimizer: registered optimizers, with one learning rate for all weights."""


class Stage(ConfigWithInputs):
    """One step of post-training. Members add `kind: Literal[...]` and their settings.

    A member is one file and one line in STAGES. It declares its inputs and its output, creates the
    job that does the work, and describes what reports show of its result.
    """

    name: Name
    """Name by which other stages and the report refer to it."""
    output_kind: ClassVar[str | None] = None
    """Kind of output that other stages can read: MODEL, REWARD, ANSWER_PAIRS (evals/inputs.py) or a
    kind of its own; None: no output. Every stage whose output is a MODEL is graded and reported."""

    def expand(self) -> "tuple[Stage, ...]":
        """Return the stages that this entry of a file expands to: itself, or a series."""
        return (self,)

    def max_rows(self) -> tuple[int | None, float]:
        """Return the most rows of text that the stage processes, and the forward passes per row.

        A backward pass counts as two forward passes. None: the number of rows is not known yet.
        """
        return None, 0.0

    def baseline(self) -> str | None:
        """Return the stage, or "base", whose model this stage's model is compared with."""
        return None

    def graded_model(self) -> str | None:
        """Return the stage whose model this stage grades; None if it is not a grading stage.

        A grading stage writes the tables and answers of grade.py and has no row of its own in
        tables of stages.
        """
        return None

    def is_interactive(self) -> bool:
        """Return whether it asks a person at this terminal; it then runs in the command's process."""
        return False

    def display(self, result: StageResult) -> StageDisplay:
        """Return what reports show of a finished result besides its metrics and cost."""
        del result
        return StageDisplay()

    def example(self, path: Path) -> str | None:
        """Return one line with an example of its work, printed when it finishes; from its directory."""
        del path

    @abstractmethod
    def create_job(self, context: "StageContext") -> "StageJob":
        """Return the job, ready to run from step 0.

        Raises:
            DataError: The conversations or pairs are unsuitable for this stage.
            RunError: An input is missing or damaged.
        """


class StopRequested(Exception):
    """A long step was stopped on request; the job has saved what it needs to resume."""


@dataclass(frozen=True, eq=False)
class StageContext:
    """Everything that the job of a stage receives."""

    stage: Stage
    conversations: Conversations
    seed: int
    paths: Mapping[str, Path]
    """Directory of each input stage and of the base model, by name."""
    out: Path
    """The stage's own directory."""
    stop: Callable[[], bool] = lambda: False
    """Whether the stage should save and stop. The loop calls it before every step; a job with long
    steps calls it during a step too, saves what it needs and raises StopRequested."""
    journal: Callable[..., None] = lambda event, **values: None
    """Appends an event to the stage's journal, for jobs with long steps."""
    guard: Callable[[], None] = lambda: None
    """Raises leases.LeaseTaken once another process has taken over the stage. A job that writes into the
    directory during a step calls it before every write."""

    def model(self, name: str) -> Checkpoint:
        """Return the model of an earlier stage."""
        return Checkpoint.load(self.paths[name])

    def assistant(self, name: str) -> Checkpoint:
        """Return the model of an earlier stage. Raises DataError: it is a base model without chat."""
        model = self.model(name)
        if model.chat is None:
            raise DataError(
                f"the model {name!r} is a base model and cannot answer prompts",
                where=f"stage {self.stage.name}, {self.paths[name]}",
                fix="add an SFT stage before this one and start from it",
            )
        return model

    def reward_model(self, name: str) -> RewardModel:
        """Return the reward model of an earlier stage."""
        return RewardModel.load(self.paths[name])


@dataclass(frozen=True)
class StepResult:
    """Metrics and cost of one step, or of one evaluation on held-out prompts."""

    numbers: Mapping[str, float] = field(default_factory=dict)
    """Metrics for the journal. A `loss` that is not finite ends the stage as diverged."""
    tokens: float = 0.0
    """Tokens processed by the model. The loop sums tokens and FLOPs over steps."""
    flops: float = 0.0
    """All floating-point operations of the step."""
    flops_by: Mapping[str, float] = field(default_factory=dict)
    """Floating-point operations by purpose, where they are counted separately."""


@dataclass(frozen=True)
class FinishedStage:
    """Outcome of a stage's job."""

    metrics: Mapping[str, int | float | None]
    """Final metrics; None: not known. In the result they follow those of the last evaluation."""
    files: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of each output file, by name in the stage's directory."""
    tables: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Rows of JSON values, for the report."""
    memory_bytes: Mapping[str, int] = field(default_factory=dict)
    """Computed memory of the method in bytes, by part."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of the libraries that did the work."""
    flops: float = 0.0
    """Floating-point operations that no step has counted."""
    flops_by: Mapping[str, float] = field(default_factory=dict)


class StageJob(Protocol):
    """A running stage. Step k depends on the seed, on k and on the steps before it."""

    n_steps: int
    eval_every: int | None
    """Steps between two evaluations; None: evaluate only at the end."""
    updates_within: int
    """Updates per step, for a job that makes many of them in one step and logs them itself; else 1."""

    def step(self, k: int) -> StepResult:
        """Run step k."""

    def evaluate(self) -> StepResult:
        """Return metrics on held-out prompts with the current weights.

        The loop evaluates every `eval_every` steps and before finish; the metrics of the last
        evaluation are part of the result.
        """

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that a later process needs to resume."""

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Resume from what tensors() returned."""

    def finish(self, out: Path) -> FinishedStage:
        """Write the stage's output files into its directory and return its outcome."""


Status = Literal["finished", "diverged"]


@dataclass(frozen=True)
class StageDir:
    """Directory of one stage, with the paths and the journal of a run directory."""

    run_dir: RunDir

    @property
    def path(self) -> Path:
        """Path of the directory."""
        return self.run_dir.path

    @property
    def id(self) -> str:
        """Id of the stage: the end of the directory's name."""
        return stage_id(self.path)

    def result(self) -> StageResult | None:
        """Return the stage's result; None while there is none. Raises RunError: it cannot be read."""
        return stage_result(self.path)

    def write_result(self, result: StageResult) -> StageResult:
        """Write the result, once and as the last file of a stage.

        Returns: The stored result; if the stage already had one, that one.
        """
        self.run_dir.guard()
        if self.run_dir.publish(self.run_dir.result_path, STAGE_RESULT.text(result)):
            return result
        return self.result() or result

    def check_outputs(self, *names: str) -> None:
        """Verify that output files of the stage are unchanged.

        Args:
            names: Files to verify; all if empty. Stages older than the seals have no digests.

        Raises:
            RunError: The stage has no result, or a file is missing or was altered.
        """
        result = self.result()
        if result is None:
            raise RunError(
                f"the stage {self.path.name} has no result",
                where=str(self.path),
                fix="run the command that started the stage again",
            )
        for name in names or result.files:
            self.run_dir.check_file(name, result.files, REDO)
