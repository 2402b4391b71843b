"""Jobs in a directory that several machines share, for worker processes that claim them.

    runs/<sweep>/.queue/
      queue.json              what all workers have to know, with the token of this directory
      jobs/<job>-<number>.json    a job that may run; the number counts how often it was published
      claims/                 which worker is about to begin a job (leases.py)
      ended/<job>-<number>.json   how it ended: written once, by whoever saw the end
      workers/<worker>.json   a worker that has reached this directory, with the path of its log

A job is open until its newest number has an end. A worker claims an open job by the lease of the job's
own directory (leases.py), so a job that a dead worker left behind is open again once its lease has run
out. What a late worker writes is refused by that lease, and its end is refused by the one that stands.

No file is appended to or locked, so a network file system needs to offer no more than links and renames.

Not here: the content of the files (queue_records.py), how a worker runs its jobs (queue_worker.py), who
starts workers (executors, people).
"""

import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

from scalelab.errors import LaunchError, ScalelabError
from scalelab.files import NoAnswer, exists, inside, make_dir, names_in, refuse_link, write_new
from scalelab.jobs.base import Job, JobOutcome, JobResources
from scalelab.jobs.queue_records import (
    END,
    SETTINGS,
    TICKET,
    WORKER,
    JobEnd,
    QueuedJob,
    QueueSettings,
    Wanted,
    WorkerRecord,
)
from scalelab.jobs.record import read_record, write_record
from scalelab.leases import abandoned, numbered, numbers
from scalelab.train.memory import run_memory
from scalelab.train.run_directory import LEASE, RunDir

QUEUE = ".queue"
TRAINING_KINDS = ("run", "trunk")
"""Kinds of jobs whose directory holds a RunSpec, from which their memory is estimated."""


class JobQueue:
    """The jobs of one sweep or post-training.

    Args:
        home: Directory of the sweep or post-training, in the directory of all runs.
    """

    def __init__(self, home: Path):
        self.home, self.root, self.path = home, home.parent, home / QUEUE
        self._known: dict[str, QueuedJob] = {}

    @property
    def logs(self) -> Path:
        """Directory of the logs of workers whose starter keeps them here."""
        return self.path / "logs"

    @property
    def claims(self) -> Path:
        """Directory of the claims of workers that are about to begin a job, or run it."""
        return self.path / "claims"

    @property
    def exists(self) -> bool:
        """Whether anything was ever queued here."""
        return exists(self.path / "queue.json")

    def settings(self) -> QueueSettings:
        """Return the settings.

        Raises:
            LaunchError: Nothing was queued here, or the file is damaged.
        """
        try:
            return SETTINGS.read(self.path / "queue.json")
        except FileNotFoundError:
            raise LaunchError(
                f"no jobs are queued in {self.home.name}",
                where=str(self.path),
                fix="queue the runs of a sweep first: scalelab sweep FILE.yaml --prepare; if that was done, this "
                "machine does not share the directory with the one that did it",
            ) from None

    def open(self, settings: QueueSettings) -> QueueSettings:
        """Write the settings with the token of this directory, which is made once, and return them.

        Raises:
            RunError: The directory cannot be written.
        """
        refuse_link(self.home)
        refuse_link(self.path)
        try:
            token = self.settings().token
        except NoAnswer:
            raise
        except ScalelabError:
            token = uuid4().hex[:12]
        settings = replace(settings, token=token)
        for part in ("jobs", "claims", "ended", "workers", "logs"):
            make_dir(self.path / part)
        SETTINGS.write(self.path / "queue.json", settings)
        return settings

    def check_token(self, token: str) -> None:
        """Refuse a directory that is not the one whose token was named.

        Raises:
            LaunchError: It has another token, or none.
        """
        there = self.settings().token
        if there != token:
            raise LaunchError(
                f"this directory has the token {there}, not {token}: it is another one of the same name",
                where=f"{self.path} on {socket.gethostname()}",
                fix="run scalelab in a directory that all machines share",
            )

    # Jobs

    def publish(self, jobs: Sequence[Job], threads: int = 1) -> dict[str, int]:
        """Queue jobs, each in its directory's record and as a ticket, and return their numbers.

        A job that is open keeps its number.

        Args:
            jobs: In the order in which they should begin.
            threads: CPU threads of each process of a job that does not name them itself.

        Raises:
            RunError: A directory cannot be written, or is or holds a symbolic link.
        """
        order = time.time_ns() // 1000
        published = {}
        for place, job in enumerate(jobs, order):
            old = self.ticket(job.id)
            number = max(numbers(self.path / "jobs", job.id), default=0)
            if number == 0 or old is None or old.wanted != "run" or self.end(old) is not None:
                number += 1
            published[job.id] = number
            write_record(job, job.resources.threads or threads)
            new = QueuedJob(
                job.id,
                str(job.dir.path.relative_to(self.root)),
                number,
                place,
                job.resources.precision,
                list(job.needs),
                list(job.after),
                job.leaves_result,
                max(numbers(job.dir.path, LEASE), default=0)
                if old is None or number > old.number
                else old.since,
            )
            path = self._ticket_path(job.id, number)
            # Not flushed: after a power cut the same command queues it again.
            if not write_new(path, TICKET.text(new), flush=False):
                if old is not None and replace(new, order=old.order) == old:
                    continue
                TICKET.write(path, new)
            for before in numbers(self.path / "jobs", job.id):
                if before < number:
                    self._ticket_path(job.id, before).unlink(missing_ok=True)
        return published

    def keep_only(self, ids: Sequence[str]) -> None:
        """Remove the tickets of all other jobs, and the ends of what is not queued any more."""
        keep = set(ids)
        for part in ("jobs", "ended"):
            for path in self._listed(part):
                if path.stem.rpartition("-")[0] not in keep:
                    path.unlink(missing_ok=True)

    def tickets(self) -> list[QueuedJob]:
        """Return every ticket that holds, in order; damaged ones are left out, as if they were not there."""
        found = (self._read(path) for path in self._listed("jobs"))
        return sorted((t for t in found if t is not None), key=lambda ticket: ticket.order)

    def ticket(self, job: str, number: int | None = None) -> QueuedJob | None:
        """Return a ticket of a job, by default the newest; None without one that holds."""
        number = number or max(numbers(self.path / "jobs", job), default=0)
        return self._read(self._ticket_path(job, number))

    def open_tickets(self) -> list[QueuedJob]:
        """Return the tickets of jobs that have not ended, in order. Each ticket is read once, its changes are not."""
        there = {path.stem: path for path in self._listed("jobs")}
        for name in self._known.keys() - there.keys():
            del self._known[name]
        for name in there.keys() - self.ended_names():
            if name not in self._known and (ticket := self._read(there[name])) is not None:
                self._known[name] = ticket
        ended = self.ended_names()
        return sorted((t for n, t in self._known.items() if n not in ended), key=lambda t: t.order)

    def ended_names(self) -> set[str]:
        """Return the names of all ends, JOB-NUMBER, from one look into the directory."""
        return {path.stem for path in self._listed("ended")}

    def withdraw(self, job: str, wanted: Wanted) -> None:
        """Ask the worker of a job to stop it or to kill it; no worker begins it any more."""
        ticket = self.ticket(job)
        if ticket is not None and ticket.wanted != wanted:
            TICKET.write(self._ticket_path(job, ticket.number), replace(ticket, wanted=wanted))

    def job_of(self, ticket: QueuedJob, retries: int) -> Job:
        """Return the job of a ticket, as its directory describes it.

        Args:
            ticket: The ticket.
            retries: Workers that may be killed with the job while it gets no further.

        Raises:
            LaunchError: Its record is missing or damaged.
            RunError: Its directory is not below the directory of all runs.
        """
        run_dir = RunDir(inside(self.root, ticket.dir))
        record = read_record(run_dir)

        def memory(*device: object) -> int:
            return run_memory(run_dir.spec(), *device)

        def standing(job: Job) -> JobOutcome | None:
            if (end := self.end(ticket)) is not None:
                return end.of(job)
            if ticket.leaves_result and run_dir.is_done:
                return JobOutcome(job, "done")
            now = self.ticket(ticket.job, ticket.number)
            if now is None or now.wanted != "run":
                return JobOutcome(job, "interrupted", "it was withdrawn from the queue")
            n = note_abandoned(run_dir, ticket.since)
            if n > retries:
                reason = f"{n} workers were killed while they ran it, and it got no further"
                return JobOutcome(job, "killed", reason)
            return None

        return Job(
            ticket.job,
            run_dir,
            record.kind,
            tuple(ticket.needs),
            tuple(ticket.after),
            JobResources(
                record.processes,
                record.threads,
                memory if record.kind in TRAINING_KINDS else None,
                ticket.precision,
                record.cpu_only,
            ),
            record.settings,
            standing,
            ticket.leaves_result,
        )

    # Ends

    def end(self, ticket: QueuedJob) -> JobEnd | None:
        """Return how a job ended; None while it is open, or where the file does not hold."""
        try:
            return END.read(self.path / "ended" / f"{_end_name(ticket.job, ticket.number)}.json")
        except FileNotFoundError:
            return None

    def record_end(self, job: str, number: int, end: JobEnd) -> bool:
        """Record how a job ended, unless that is recorded already. Returns whether it was written."""
        return END.write_once(self.path / "ended" / f"{_end_name(job, number)}.json", end)

    # Workers

    def join(self, task: str | None = None, log: str | None = None) -> WorkerRecord:
        """Record that this process has reached the directory, and return the record."""
        host = socket.gethostname()
        record = WorkerRecord(
            f"{host.split('.')[0]}-{os.getpid()}-{uuid4().hex[:6]}", host, os.getpid(), task, log
        )
        WORKER.write(self.path / "workers" / f"{record.worker}.json", record)
        return record

    def workers(self) -> Iterator[WorkerRecord]:
        """Every worker that has ever reached the directory, in no order."""
        for path in self._listed("workers"):
            with suppress(FileNotFoundError, ScalelabError):
                yield WORKER.read(path)

    def _listed(self, part: str) -> list[Path]:
        return [self.path / part / name for name in names_in(self.path / part) if _is_record(name)]

    def _ticket_path(self, job: str, number: int) -> Path:
        return numbered(self.path / "jobs", job, number)

    def _read(self, path: Path) -> QueuedJob | None:
        try:
            return TICKET.read(path)
        except NoAnswer:
            raise
        except (FileNotFoundError, ScalelabError):
            return None


def note_abandoned(run_dir: RunDir, since: int = 0) -> int:
    """Note in a job's journal that its last process vanished, and return how many did since it last got further.

    A job gets further with a checkpoint of a later step than any before. 0 where the last process ended in
    order, or still runs.

    Args:
        run_dir: The job's directory.
        since: Number of the attempt after which vanished processes count.
    """
    left = abandoned(run_dir.path, LEASE)
    if left is None or left.attempt <= since:
        return 0
    lost, reached = set[int](), -1
    for event in run_dir.events():
        if event["event"] == "checkpoint" and event["step"] > reached:
            lost, reached = set(), event["step"]
        elif event["event"] == "lost" and isinstance(event.get("attempt"), int):
            lost.add(event["attempt"])
    if left.attempt not in lost:
        reason = f"its worker on {left.host} vanished"
        run_dir.append("lost", outcome="killed", attempt=left.attempt, reason=reason)
    return sum(attempt > since for attempt in lost | {left.attempt})


def _end_name(job: str, number: int) -> str:
    return f"{job}-{number:06d}"


def _is_record(name: str) -> bool:
    return name.endswith(".json") and not name.startswith(".")
