"""job.json: what a job's processes have to know beside what its directory holds."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scalelab.errors import LaunchError
from scalelab.files import refuse_link, refuse_links_in
from scalelab.jobs import KINDS
from scalelab.jobs.base import Job
from scalelab.sealed import Damaged, Format
from scalelab.train.run_directory import RunDir


@dataclass(frozen=True)
class JobRecord:
    """The content of job.json. JSON types."""

    kind: str
    """Names the function that does the job, in KINDS."""
    processes: int
    """Number of processes that are started together."""
    threads: int | None = None
    """CPU threads of each; None: as many as torch chooses."""
    settings: dict[str, Any] = field(default_factory=dict)
    """For the function."""
    cpu_only: bool = False
    """Whether it takes no GPU."""


JOB = Format(
    "job record",
    JobRecord,
    schema=1,
    error=LaunchError,
    fix="run the command that made the job again: it writes the file anew",
)


def path_of(run_dir: RunDir) -> Path:
    """Path of a job's record."""
    return run_dir.path / "job.json"


def write_record(job: Job, threads: int | None = None) -> JobRecord:
    """Write down what the processes of a job have to know, on this machine or on another.

    Args:
        job: What is to be done.
        threads: CPU threads of each process.

    Raises:
        RunError: The directory cannot be written, or is or holds a symbolic link.
    """
    refuse_link(job.dir.path.parent)
    refuse_links_in(job.dir.path)
    resources = job.resources
    record = JobRecord(job.kind, resources.processes, threads, dict(job.settings), resources.cpu_only)
    place = path_of(job.dir)
    text = JOB.text(record)
    try:
        same = place.read_text(encoding="utf-8") == text
    except (OSError, UnicodeDecodeError):
        same = False
    if not same:
        JOB.write(place, record)
    return record


def read_record(run_dir: RunDir) -> JobRecord:
    """Return the record that was written for the processes of a job.

    Raises:
        LaunchError: Nothing was, or the file does not hold.
    """
    place = path_of(run_dir)
    try:
        record = JOB.read(place)
    except FileNotFoundError:
        raise LaunchError(
            "there is no job here",
            where=str(place),
            fix="run the command that makes it (for a launched run: scalelab launch PLAN --prepare)",
        ) from None
    if record.kind not in KINDS:
        known = ", ".join(KINDS)
        raise JOB.refusal(place, Damaged(f"its kind is {record.kind!r}, there are: {known}"))
    if record.processes < 1 or (record.threads is not None and record.threads < 1):
        raise JOB.refusal(
            place, Damaged(f"it names {record.processes} processes of {record.threads} threads")
        )
    return record
