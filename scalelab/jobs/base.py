"""What a job is, what carries it, and how it ends.

The driver owns order, retries and the record; an executor owns processes and devices. A job's
directory holds all that its processes have to know, so that a job can be repeated by hand:

    python -m scalelab.jobs.worker JOB_DIR

Units: seconds, bytes. Not here: the order of jobs (drive.py), what a process does (worker.py).
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from scalelab.config import Config
from scalelab.errors import LaunchError
from scalelab.train.rundir import RunDir

Outcome = Literal[
    "done",  # there is a result
    "interrupted",  # saved and stopped on request
    "elsewhere",  # another process holds the job's lease, or has taken it over
    "refused",  # a person has to fix something first; the message says what
    "blocked",  # not begun: a job that it needs has not come to a usable result
    "out_of_memory",  # not even the smallest micro-batch, or no memory for the process
    "killed",  # ended by a signal that nobody here sent
    "stalled",  # ended by us: no progress, or past its wall time
    "error",  # our own bug; there is a traceback
]
RETRIED: tuple[Outcome, ...] = ("killed", "stalled", "out_of_memory")
"""Outcomes that another try may change. A retry resumes from the newest checkpoint."""
LOST: tuple[Outcome, ...] = (*RETRIED, "error")
"""Outcomes that are noted in the job's journal: its process could not do so."""


@dataclass(frozen=True)
class Resources:
    """What a job takes."""

    processes: int = 1
    """Started together and ended together, each on one device (a gang)."""
    threads: int | None = None
    """CPU threads of each process; None leaves the choice to the executor."""
    memory: Callable[[str, int | None], int] | None = None
    """Bytes on a device of a kind ("cpu", "cuda") that has so many bytes; None is unknown."""
    terminal: bool = False
    """Whether it asks the person at this terminal, and so has to be done in this very process."""


@dataclass(frozen=True, eq=False)
class Job:
    """Work that leads to a result in a directory."""

    id: str
    """Its name among the jobs that are driven together."""
    dir: RunDir
    """Where it works: journal, lease, checkpoints, result."""
    kind: str
    """Names the function that does it, in KINDS."""
    needs: tuple[str, ...] = ()
    """Jobs that have to be done before. What is not driven here counts as done."""
    resources: Resources = field(default_factory=Resources)
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What the function is told beyond what its directory holds. JSON types."""
    standing: "Callable[[Job], Ended | None]" = lambda job: (
        Ended(job, "done") if job.dir.is_done else None
    )
    """How it stands on the disk; None while it has no result."""


@dataclass(frozen=True)
class Said:
    """How a process says that it ended. JSON types."""

    outcome: Outcome
    reason: str | None = None
    where: str | None = None
    fix: str | None = None


@dataclass(frozen=True)
class Ended:
    """How one job ended."""

    job: Job
    outcome: Outcome
    reason: str | None = None
    """In one line."""
    where: str | None = None
    """Of a refusal."""
    fix: str | None = None
    """Of a refusal."""

    def refusal(self) -> LaunchError:
        """The same as an error that a person can act on."""
        return LaunchError(
            self.reason or f"the job {self.job.id} was refused",
            where=self.where or str(self.job.dir.path),
            fix=self.fix or f"see its journal: {self.job.dir.log_path}",
        )


State = Ended | Literal["queued", "running", "unknown"]
"""Of a job that was submitted. queued: its processes have not started. unknown: the executor could
not find out this time; the job may still be running."""


@dataclass(frozen=True)
class Devices:
    """What an executor found, as far as an estimate needs it."""

    n: int
    """Devices that are paid for."""
    name: str
    abreast: int
    """Runs that are trained at once at the speed of one: cores of a CPU, or GPUs."""

    def __str__(self) -> str:
        return f"{self.n} x {self.name}, {self.abreast} runs abreast"


@dataclass(frozen=True)
class Capabilities:
    """What an executor can do."""

    gangs: bool
    """Jobs of several processes."""
    timing: bool
    """Calling a function on a device of its own, for an estimate."""
    blocking: bool = False
    """Whether submit returns only after the job has ended."""


class Executor(Protocol):
    """What the driver asks of an executor."""

    capabilities: Capabilities

    @property
    def devices(self) -> Devices:
        """What was found, for an estimate."""

    def call(self, function: str, *arguments: Any) -> Any | None:
        """What "module:function" returns on the first device, alone; None where that failed.

        Only where `capabilities.timing` says so.
        """

    def check(self, job: Job) -> None:
        """Refuse a job that can never be carried. Raises LaunchError."""

    def has_room(self, job: Job) -> bool:
        """Whether this job could start now."""

    def submit(self, job: Job) -> None:
        """Start a job, written down in its directory. Only after has_room said yes.

        Raises:
            LaunchError: It cannot be started.
        """

    def poll(self) -> Mapping[str, State]:
        """The state of each submitted job, by id, in one call. An ending is told once."""

    def cancel(self, ids: Iterable[str], *, now: bool) -> None:
        """Ask jobs to save and stop, or end them at once; poll will tell."""

    def find(self, jobs: Sequence[Job]) -> tuple[str, ...]:
        """Ids of those that an earlier process of ours submitted and that still run."""

    def close(self) -> None:
        """Let go of everything that was held. Jobs that cannot outlive us are ended."""


class ExecutorConfig(Config):
    """An executor's settings. Members add `kind: Literal[...]` and their own."""

    @abstractmethod
    def start(self, preload: Sequence[str] = ()) -> Executor:
        """The executor.

        Args:
            preload: Modules that the jobs' processes need, imported once where that is possible.

        Raises:
            LaunchError: It cannot be used here.
        """
