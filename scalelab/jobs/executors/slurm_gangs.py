"""Jobs of several processes on Slurm: a batch job for each, submitted again until the job has ended.

    submitted -> listed by squeue -> gone, with an exit status -> done, refused, killed ...
                                                                -> saved and stopped: submitted again

A batch job is known by its name, which holds the id of the job, so that a later command finds it. Each of its
starts leaves its exit status and the reports of its processes in files of its own (slurm_scripts.py).

Slurm may not answer, and a command whose answer was lost may have been carried out. A job that is to be stopped is
cancelled again until Slurm has taken the command, or for a kill until it is gone; one that may have been submitted
is looked for under its name in several answers before it is submitted again.

Not here: jobs of one process (slurm.py).
"""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scalelab.errors import LaunchError, RunError
from scalelab.files import make_dir, matching, write_error
from scalelab.jobs.base import Job, JobOutcome, ProcessReport, State
from scalelab.jobs.executors import slurm_commands as slurm
from scalelab.jobs.executors.exit_status import classify
from scalelab.jobs.executors.slurm_commands import SlurmTask, SlurmUnavailable
from scalelab.jobs.executors.slurm_scripts import SlurmSettings, gang_job
from scalelab.jobs.queue import JobQueue
from scalelab.jobs.record import write_record

FRESH_POLLS = 3
"""Answers of Slurm that may lack a job that was just submitted, or that has just ended."""


@dataclass
class Gang:
    """A job of several processes."""

    job: Job
    id: str | None = None
    """Number of the Slurm job; None while it could not be submitted."""
    wanted: Literal["run", "stop", "kill"] = "run"
    is_cancelled: bool = False
    """Whether Slurm has taken the command that stops or kills it."""
    absent: int = 0
    """Answers in a row in which Slurm did not list it, and no exit status was there."""
    asked: float = 0.0
    """Time of the last answer."""
    stuck: int = 0
    """Answers in a row by which it will never start."""


class SlurmGangs:
    """Submits jobs of several processes, and reads how they ended.

    Args:
        settings: Settings of the executor.
        queue: Returns the queue of the sweep, below whose directory the files of gangs are.
        name: Returns the start of the names of all its Slurm jobs.
    """

    def __init__(self, settings: SlurmSettings, queue: Callable[[], JobQueue], name: Callable[[], str]):
        self._settings, self._queue, self._name = settings, queue, name
        self.open: dict[str, Gang] = {}
        """Jobs that have not ended, by id."""

    @property
    def _home(self) -> Path:
        return self._queue().path / "gangs"

    def name_of(self, job: str) -> str:
        """Name of a job's Slurm jobs."""
        return f"{self._name()}-{job}"

    def names(self) -> list[str]:
        """Names of the Slurm jobs of all open jobs."""
        return [self.name_of(job) for job in self.open]

    def submit(self, job: Job) -> None:
        """Submit a job.

        Raises:
            LaunchError: Slurm rejects it.
            RunError: Its directory cannot be written.
        """
        gang = Gang(job)
        self._submit(gang)
        self.open[job.id] = gang

    def _submit(self, gang: Gang) -> None:
        job = gang.job
        make_dir(self._home)
        write_record(job, job.resources.threads)
        new = gang_job(
            self._settings, job.dir.path, self._home / job.id, job.resources.processes, self.name_of(job.id)
        )
        gang.id, gang.absent = None, 0
        with suppress(SlurmUnavailable):  # it is found by its name, or submitted again
            gang.id = slurm.submit(new.script, new.options)

    def poll(self, tasks: Sequence[SlurmTask] | None, asked: float) -> dict[str, State]:
        """Return the state of each open job; those that have ended are not open any more.

        Args:
            tasks: What squeue lists; None: it did not answer.
            asked: Time at which it was asked, on any clock.
        """
        if tasks is None:
            return dict.fromkeys(self.open, "unknown")
        states = {name: self._state(gang, tasks, asked) for name, gang in self.open.items()}
        self.open = {name: gang for name, gang in self.open.items() if isinstance(states[name], str)}
        return states

    def _state(self, gang: Gang, tasks: Sequence[SlurmTask], asked: float) -> State:
        job, name = gang.job, self.name_of(gang.job.id)
        is_new, gang.asked = asked > gang.asked, asked
        live = [task for task in tasks if task.name == name and task.is_live]
        if live and live[0].waits_after_requeue(self._settings.flags):
            with suppress(SlurmUnavailable):
                slurm.cancel([live[0].job])
                gang.id, gang.absent, live = None, FRESH_POLLS, []
        if (
            live
            and gang.wanted != "run"
            and not (gang.is_cancelled and (gang.wanted == "stop" or not is_new))
        ):
            self._cancel(gang, live)
        if live:
            gang.id, gang.absent = live[0].job, 0
            gang.stuck = gang.stuck + is_new if slurm.all_stuck(live) else 0
            if gang.stuck >= FRESH_POLLS and (stuck := slurm.withdraw_stuck(live)) is not None:
                return JobOutcome(job, "refused", stuck.problem, stuck.where, stuck.fix)
            return "running" if live[0].has_begun else "queued"
        if gang.id is None:
            gang.absent += is_new
            if gang.absent < FRESH_POLLS:  # it may have been submitted, though the answer of sbatch was lost
                return "queued"
            if gang.wanted != "run":
                return JobOutcome(job, "interrupted", "it was not submitted yet")
            return self._submit_again(gang)
        record = self._record(gang)
        if record is None and gang.absent < FRESH_POLLS:
            gang.absent += is_new  # not listed yet, or its record is on the way
            return "running"
        outcome = self._outcome(gang, record)
        if outcome.outcome == "interrupted" and gang.wanted == "run":  # its wall time, or a preemption
            return self._submit_again(gang)
        return outcome

    def _submit_again(self, gang: Gang) -> State:
        try:
            self._submit(gang)
        except (LaunchError, RunError) as error:
            return JobOutcome(gang.job, "refused", error.problem, error.where, error.fix)
        return "queued"

    def _record(self, gang: Gang) -> Path | None:
        """Path of the exit status that the newest start of a gang's Slurm job left."""
        found = matching(self._home, f"{gang.job.id}.{gang.id}.*.exit")
        return max(found, key=lambda path: int(path.name.split(".")[-2]), default=None)

    def _outcome(self, gang: Gang, record: Path | None) -> JobOutcome:
        n = gang.job.resources.processes
        if record is not None:
            base = record.with_name(record.name.removesuffix(".exit"))
            reports = [_report(base.with_name(f"{base.name}-{rank}.json")) for rank in range(n)]
            return classify(gang.job, reports, [None] * n)
        if gang.wanted != "run":
            return JobOutcome(gang.job, "interrupted", f"its Slurm job {gang.id} was cancelled")
        if (full := write_error(self._home)) is not None:  # so it could not leave one
            return JobOutcome(gang.job, "refused", full.problem, full.where, full.fix)
        state = slurm.describe(gang.id or "").get("JobState", "unknown")
        return JobOutcome(gang.job, "killed", f"its Slurm job {gang.id} ended in state {state}")

    def cancel(self, name: str, tasks: Sequence[SlurmTask], *, now: bool) -> None:
        """Ask an open job to save and stop, or kill it."""
        gang = self.open[name]
        gang.wanted, gang.is_cancelled = "kill" if now or gang.wanted == "kill" else "stop", False
        self._cancel(gang, [task for task in tasks if task.name == self.name_of(name) and task.is_live])

    def _cancel(self, gang: Gang, live: Sequence[SlurmTask]) -> None:
        """Stop or kill every Slurm job of a gang: there are two where the first was submitted unseen."""
        ids = sorted({task.job for task in live} | {gang.id} - {None})
        has_begun = any(task.has_begun for task in live)
        how = ("--signal=USR1", "--batch") if gang.wanted == "stop" and has_begun else ()
        with suppress(SlurmUnavailable):
            slurm.cancel(ids, *how)
            gang.is_cancelled = bool(ids)

    def find(self, jobs: Sequence[Job]) -> list[Job]:
        """Return those of some jobs that an earlier command submitted and that run or wait; they are open now.

        Where Slurm does not answer, any that is not done may be one: those that it then does not list are submitted.
        """
        gangs = {self.name_of(job.id): job for job in jobs if job.resources.processes > 1}
        if not gangs:
            return []
        try:
            tasks = [task for task in slurm.tasks_named(list(gangs)) if task.is_live]
        except SlurmUnavailable:
            unfinished = [job for job in gangs.values() if job.standing(job) is None]
            self.open |= {job.id: Gang(job) for job in unfinished}
            return unfinished
        found = []
        for task in tasks:
            job = gangs[task.name]
            if job.id not in self.open:
                self.open[job.id] = Gang(job, task.job)
                found.append(job)
        return found


def _report(path: Path) -> ProcessReport | None:
    """What a process of a gang reported; None if it left nothing that can be read."""
    try:
        return ProcessReport(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
