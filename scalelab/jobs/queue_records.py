"""Records in the queue's directory (queue.py): its settings, queued jobs, ends, workers.

Each is one sealed file (sealed.py) of JSON types, written whole. What is damaged is refused with its file
and a fix.

Units: seconds. Not here: when they are written and read (queue.py).
"""

from dataclasses import dataclass, field
from typing import Literal, Self

from scalelab.errors import LaunchError
from scalelab.jobs.base import Job, JobOutcome, Outcome
from scalelab.sealed import Format

Wanted = Literal["run", "stop", "kill"]


@dataclass(frozen=True)
class QueueSettings:
    """The content of queue.json. JSON types."""

    driven: bool
    """Whether a driver publishes jobs and reads their ends. Then a worker leaves when none is left that it
    could begin; else it waits for those of other workers, to take over what they leave behind."""
    retries: int
    """Further tries of a job that was killed, stalled or ran out of memory, and got no further."""
    heartbeat_timeout_s: float
    """Seconds without a log entry after which a job counts as stalled."""
    wall_timeout_s: float | None = None
    """Longest duration of one try, seconds. None: no limit."""
    idle_s: float = 10.0
    """Seconds that a worker waits for further jobs of a driver before it leaves."""
    preload: list[str] = field(default_factory=list)
    """Modules that the jobs' processes need."""
    token: str = ""
    """Distinguishes this directory from every other, also from a directory of the same path elsewhere."""


@dataclass(frozen=True)
class QueuedJob:
    """The content of jobs/<job>-<number>.json. JSON types; the rest of the job is in its directory (record.py)."""

    job: str
    dir: str
    """Relative to the directory of all runs."""
    number: int
    """How often the job was published, this time included."""
    order: int
    """Place among the jobs of the queue: lower ones are begun first."""
    precision: str = "auto"
    needs: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    leaves_result: bool = True
    since: int = 0
    """Attempts at the job before it was published; workers that vanished then do not count."""
    wanted: Wanted = "run"
    """stop: save and stop; kill: end at once."""


@dataclass(frozen=True)
class JobEnd:
    """The content of ended/<job>-<number>.json. JSON types."""

    outcome: Outcome
    reason: str | None = None
    where: str | None = None
    fix: str | None = None
    worker: str | None = None
    """Id of the worker that saw the end; None: the driver."""

    @classmethod
    def seen_by(cls, worker: str, ended: JobOutcome) -> Self:
        """Return the end that a worker saw."""
        return cls(ended.outcome, ended.reason, ended.where, ended.fix, worker)

    def of(self, job: Job) -> JobOutcome:
        """Return it as the outcome of a job."""
        return JobOutcome(job, self.outcome, self.reason, self.where, self.fix)


@dataclass(frozen=True)
class WorkerRecord:
    """The content of workers/<worker>.json. JSON types."""

    worker: str
    host: str
    pid: int
    task: str | None = None
    """Name of the scheduler's task that started it."""
    log: str | None = None
    """Path of its log, where its starter named one."""


FIX = "delete it and run the command that queued the jobs again: it writes the file anew"
SETTINGS = Format("job queue", QueueSettings, schema=1, error=LaunchError, fix=FIX)
TICKET = Format("queued job", QueuedJob, schema=1, error=LaunchError, fix=FIX)
END = Format("end of a job", JobEnd, schema=1, error=LaunchError, fix=FIX)
WORKER = Format("worker record", WorkerRecord, schema=1, error=LaunchError, fix=FIX)
