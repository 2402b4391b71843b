"""Jobs, their outcomes, and the interface of executors.

The driver owns order, retries and the record; an executor owns processes and devices. A job's
directory holds everything that its processes need, so a job can be repeated by hand:

    python -m scalelab.jobs.worker JOB_DIR

Units: seconds, bytes. Not here: the order of jobs (driver.py), what a process does (worker.py).
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from scalelab.config import Config
from scalelab.errors import LaunchError
from scalelab.train.run_directory import RunDir

Outcome = Literal[
    "done",  # there is a result
    "interrupted",  # saved and stopped on request
    "elsewhere",  # another process holds the job's lease, or has taken it over
    "refused",  # a person has to fix something first; the message says what
    "blocked",  # not begun: a job that it needs has not come to a usable result
    "out_of_memory",  # not even the smallest micro-batch, or no memory for the process
    "killed",  # ended by a signal that the driver did not send
    "stalled",  # ended by us: no progress, or past its wall time
    "error",  # our own bug; there is a traceback
]
RETRIED: tuple[Outcome, ...] = ("killed", "stalled", "out_of_memory")
"""Outcomes that another try may change. A retry resumes from the newest checkpoint."""
LOST: tuple[Outcome, ...] = (*RETRIED, "error")
"""Outcomes that are noted in the job's journal: its process could not do so."""


@dataclass(frozen=True)
class JobResources:
    """Resources that a job needs."""

    processes: int = 1
    """Started together and ended together, each on one device (a gang)."""
    threads: int | None = None
    """CPU threads of each process; None leaves the choice to the executor."""
    memory: Callable[[str, int | None, str], int] | None = None
    """Bytes on a device of a kind ("cpu", "cuda") that has so many bytes and computes in a precision
    ("fp32", "bf16") where the job leaves it the choice; None is unknown."""
    precision: str = "auto"
    """Precision that it asks for: auto, fp32 or bf16. Not every GPU multiplies bf16."""
    cpu_only: bool = False
    """Whether it computes on the CPU also where there are GPUs."""
    terminal: bool = False
    """Whether it asks questions at the terminal and so has to run in the driver's process."""


@dataclass(frozen=True, eq=False)
class Job:
    """Work that leads to a result in a directory."""

    id: str
    """Unique name among the jobs of one driver."""
    dir: RunDir
    """Directory of its journal, lease, checkpoints and result."""
    kind: str
    """Name in KINDS of the function that runs it."""
    needs: tuple[str, ...] = ()
    """Ids of jobs that must be done first. Jobs unknown to the driver count as done."""
    after: tuple[str, ...] = ()
    """Ids of jobs that must have ended first, however they ended."""
    resources: JobResources = field(default_factory=JobResources)
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the function beyond what its directory holds. JSON types."""
    standing: "Callable[[Job], JobOutcome | None]" = lambda job: (
        JobOutcome(job, "done") if job.dir.is_done else None
    )
    """Outcome according to the disk; None while there is no result."""
    leaves_result: bool = True
    """Whether `standing` must find it done once its process reports so. False: the report is enough."""


@dataclass(frozen=True)
class ProcessReport:
    """Report of a process about its own end. JSON types."""

    outcome: Outcome
    reason: str | None = None
    where: str | None = None
    fix: str | None = None


@dataclass(frozen=True)
class JobOutcome:
    """Outcome of one job."""

    job: Job
    outcome: Outcome
    reason: str | None = None
    """Reason in one line."""
    where: str | None = None
    """Location of a refusal."""
    fix: str | None = None
    """Fix of a refusal."""

    def refusal(self) -> LaunchError:
        """Return the refusal as an error that a person can act on."""
        return LaunchError(
            self.reason or f"the job {self.job.id} was refused",
            where=self.where or str(self.job.dir.path),
            fix=self.fix or f"see its journal: {self.job.dir.log_path}",
        )


State = JobOutcome | Literal["queued", "running", "unknown"]
"""State of a submitted job. queued: its processes have not started. unknown: the executor could
not find out this time; the job may still be running."""


@dataclass(frozen=True)
class AvailableDevices:
    """Devices that an executor found, as needed for an estimate."""

    n: int
    """Number of devices that are paid for."""
    name: str
    n_parallel: int
    """Number of runs that train in parallel at full speed: CPU cores, or GPUs."""
    is_gpu: bool = False
    """Whether models are compiled before their first step."""
    n_cpu_jobs: int | None = None
    """Number of jobs that compute on the CPU alone (JobResources.cpu_only) that run in parallel; None: n_parallel."""

    @property
    def n_parallel_on_cpu(self) -> int:
        """Number of jobs that compute on the CPU alone that run in parallel."""
        return self.n_parallel if self.n_cpu_jobs is None else self.n_cpu_jobs

    def __str__(self) -> str:
        return f"{self.n} x {self.name}, {self.n_parallel} runs at a time"


@dataclass(frozen=True)
class Capabilities:
    """Capabilities of an executor."""

    gangs: bool
    """Whether it runs jobs with several processes."""
    timing: bool
    """Whether it can call a function on an otherwise idle device, for an estimate."""
    blocking: bool = False
    """Whether submit returns only after the job has ended."""
    poll_s: float | None = None
    """Seconds between two polls that it asks for. None: many a second."""
    outlives: bool = False
    """Whether its jobs go on when this process has ended."""


class Executor(Protocol):
    """Runs jobs on behalf of the driver."""

    capabilities: Capabilities

    @property
    def devices(self) -> AvailableDevices:
        """Devices that were found, for an estimate."""

    def call(self, function: str, *arguments: Any, limit_s: float | None = None) -> Any | None:
        """Return the value of "module:function" on the first device, or None if the call failed.

        Call it only if `capabilities.timing` is true. After `limit_s` seconds a process of its own is
        ended, and the call has failed; in this process the function has to keep the limit itself.

        Raises:
            ScalelabError: The function's own: a person has to fix something first.
        """

    def check(self, job: Job) -> None:
        """Raise LaunchError for a job that this executor can never run."""

    def has_room(self, job: Job) -> bool:
        """True if this job could start now."""

    def submit(self, job: Job) -> None:
        """Start a job that is recorded in its directory. Call it only after has_room returned True.

        Raises:
            LaunchError: It cannot be started.
        """

    def poll(self) -> Mapping[str, State]:
        """Return the state of each submitted job by id. An ending is reported once."""

    def cancel(self, ids: Iterable[str], *, now: bool) -> None:
        """Ask jobs to save and stop, or kill them if `now`; poll reports their outcomes."""

    def find(self, jobs: Sequence[Job]) -> tuple[str, ...]:
        """Return ids of jobs that an earlier driver submitted and that are still running."""

    def close(self) -> None:
        """Release everything held. Jobs that cannot outlive this process are killed."""


class ExecutorConfig(Config):
    """An executor's settings. Members add `kind: Literal[...]` and their own."""

    exclusive: ClassVar[bool] = False
    """Whether only one command at a time may use it in a directory: what others queue there would be removed."""

    @abstractmethod
    def start(self, preload: Sequence[str] = (), home: Path | None = None) -> Executor:
        """Return the executor.

        Args:
            preload: Modules that the jobs' processes need, imported once where that is possible.
            home: Directory of the sweep or post-training whose jobs it will run, in the directory of all runs.
                Executors of one machine need none.

        Raises:
            LaunchError: It cannot be used here.
        """
