"""Jobs on a cluster of Slurm: small ones by a pool of workers, jobs of several processes by a batch job each.

    job of one process   -> ticket in the queue of its sweep (jobs/queue.py) -> an array of `scalelab worker`
    job of several       -> sbatch: srun, torchrun, python -m scalelab.jobs.worker

A worker is used for many runs, so 200 of them cost a few starts. At most `workers` tasks are submitted at a
time; while jobs are open and there are fewer, more are. Everything that decides is on the shared disk:
the end of a job is a record there, and Slurm is asked, in one call a poll, only which of our jobs it
still has. Slurm starts some jobs twice (a controller that lost its memory, a node that was cut off), which the
leases of the jobs' directories make harmless: the later attempt waits, or takes over and the earlier
one's writes are refused.

A worker takes any job of its queue, so it holds the GPUs of the settings also while its jobs compute on the CPU
alone; of those it runs `slots` at a time, or one per CPU of its task. Set `gpus: 0` where all jobs are such, as in a
curation.

If this command dies, its jobs go on. The same command finds them by name.

Not here: Slurm's commands (slurm_commands.py), the scripts (slurm_scripts.py), jobs of several processes
(slurm_gangs.py).
"""

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from scalelab.errors import LaunchError
from scalelab.files import write_error
from scalelab.jobs.base import AvailableDevices, Capabilities, Job, State
from scalelab.jobs.executors import slurm_commands as slurm
from scalelab.jobs.executors.slurm_commands import SlurmTask, SlurmUnavailable
from scalelab.jobs.executors.slurm_gangs import FRESH_POLLS, SlurmGangs
from scalelab.jobs.executors.slurm_scripts import SlurmSettings, worker_job
from scalelab.jobs.published import PublishedJobs
from scalelab.jobs.queue import JobQueue
from scalelab.jobs.queue_records import QueueSettings

MOST_QUEUED = 1000
"""Most jobs in the queue at a time."""
ENDED_BY_ITSELF = ("COMPLETED", "FAILED", "TIMEOUT", "OUT_OF_MEMORY", "BOOT_FAIL")
"""States of ended worker tasks that nobody cancelled, preempted or lost."""
FAILED_STARTS = 3
"""Worker tasks in a row that end without having reached the directory, after which the jobs are refused."""
VANISHED = 2
"""Further workers that may vanish with a job before that counts as one try of it."""
NEVER_S = 1e9
"""Workers leave it to the driver to decide that a job has stalled."""


class SlurmConfig(SlurmSettings):
    """Jobs that Slurm runs on the nodes of a cluster, submitted from here."""

    exclusive: ClassVar[bool] = True

    def start(self, preload: Sequence[str] = (), home: Path | None = None) -> "SlurmExecutor":
        """Return the executor.

        Raises:
            LaunchError: Slurm's commands are not here, or it has no such partition.
        """
        slurm.refuse_missing_commands()
        slurm.refuse_unknown_partition(self.partition)
        return SlurmExecutor(self, preload, home)


class SlurmExecutor:
    """Publishes jobs, keeps workers submitted, and reads how jobs ended."""

    def __init__(self, config: SlurmSettings, preload: Sequence[str], home: Path | None):
        self.config, self._home = config, home
        self.capabilities = Capabilities(gangs=True, timing=False, poll_s=config.poll_s, outlives=True)
        self._queue_settings = QueueSettings(
            driven=True,
            retries=VANISHED,
            heartbeat_timeout_s=NEVER_S,
            idle_s=max(10.0, 2 * config.poll_s),
            preload=list(preload),
        )
        self._token = ""
        self._queued = PublishedJobs(lambda: self.queue)
        self._gangs = SlurmGangs(config, lambda: self.queue, lambda: self._name)
        self._tasks: list[SlurmTask] = []
        self._fresh: dict[str, tuple[int, float]] = {}
        """Arrays that squeue has not listed yet: number of tasks, and until when that is believed."""
        self._submitted = set[str]()
        """Arrays that this executor submitted; how those of an earlier command ended says nothing about now."""
        self._asked, self._known = float("-inf"), False
        self._n_failed, self._judged = 0, set[str]()
        self._n_stuck = 0
        """Answers of Slurm in a row by which no worker task runs or will ever start."""

    @cached_property
    def queue(self) -> JobQueue:
        """Queue of the sweep, made when the first job needs it.

        Raises:
            LaunchError: It was started without a directory, as for an estimate.
        """
        if self._home is None:
            raise LaunchError(
                "the executor 'slurm' needs the directory of a sweep for its jobs",
                where="executor: slurm",
                fix="use an executor of this machine for this command (executor: local)",
            )
        queue = JobQueue(self._home)
        self._token = queue.open(self._queue_settings).token
        return queue

    @property
    def devices(self) -> AvailableDevices:
        """Workers that may run at a time."""
        where = f"Slurm{f' partition {self.config.partition}' if self.config.partition else ''}"
        n, on_cpu = self.config.workers, self.config.workers * (self.config.slots or self.config.cpus)
        return AvailableDevices(n, f"worker of {where}", n, self.config.gpus > 0, n_cpu_jobs=on_cpu)

    def call(self, function: str, *arguments: Any, limit_s: float | None = None) -> None:
        """None: no device is idle here."""
        del function, arguments, limit_s

    def check(self, job: Job) -> None:
        """Refuse a job whose processes do not fill its nodes."""
        n, most = job.resources.processes, self.config.processes_per_node
        if n > most and n % most:
            raise LaunchError(
                f"the job {job.id} has {n} processes, which do not fill nodes of {most}",
                where=str(job.dir.path),
                fix="set executor.processes_per_node to a divisor of the number of processes",
            )

    def has_room(self, job: Job) -> bool:
        """True until very many jobs are queued: Slurm has a queue of its own."""
        del job
        return len(self._queued) + len(self._gangs.open) < MOST_QUEUED

    def submit(self, job: Job) -> None:
        """Queue a job for workers, or submit a job of several processes."""
        if job.resources.processes > 1:
            self._gangs.submit(job)
            return
        self._queued.publish(job)

    # Polling

    def poll(self) -> dict[str, State]:
        """Return the state of each job, from the disk and one call of squeue."""
        known = bool(self._queued or self._gangs.open) and self._ask_slurm()
        states = self._queued.states(known)
        states |= self._gangs.poll(self._tasks if known else None, self._asked)
        if known and self._queued:
            refusal = self._keep_workers(self._queued.n_wanted)
            if refusal is not None:
                states |= self._queued.refuse(*refusal)
        return states

    def _ask_slurm(self) -> bool:
        """List our jobs of Slurm, at most once in `poll_s`. False: it did not answer."""
        now = time.monotonic()
        if now - self._asked < self.config.poll_s:
            return self._known
        self._asked, self._known = now, False
        with suppress(SlurmUnavailable):
            self._tasks = slurm.tasks_named([self._name, *self._gangs.names()])
            self._known = True
            # While a worker runs, it does the jobs: what is stuck waits beside it.
            is_stuck = slurm.all_stuck([task for task in self._tasks if task.name == self._name])
            self._n_stuck = self._n_stuck + 1 if is_stuck else 0
            listed = {task.job for task in self._tasks}
            # A controller that was restarted may have lost a job that was submitted just before.
            fresh = self._fresh.items()
            self._fresh = {job: new for job, new in fresh if job not in listed and now < new[1]}
        return self._known

    def _keep_workers(self, n_open: int) -> tuple[str, str, str] | None:
        """Submit workers while there are fewer than open jobs. Returns why Slurm refuses, if it does."""
        mine = [task for task in self._tasks if task.name == self._name]
        if (failed := self._failed_start(mine)) is not None:
            return failed
        if self._n_stuck >= FRESH_POLLS and (stuck := slurm.withdraw_stuck(mine)) is not None:
            return stuck.problem, stuck.where, stuck.fix
        late = [task.id for task in mine if task.waits_after_requeue(self.config.flags)]
        with suppress(SlurmUnavailable):
            slurm.cancel(late)
        mine = [task for task in mine if task.id not in late]
        slots = self.config.slots or (1 if self.config.gpus else self.config.cpus)
        live = sum(task.is_live for task in mine) + sum(n for n, _ in self._fresh.values())
        lacking = min(-(-n_open // slots), self.config.workers) - live
        if lacking <= 0:
            return None
        new = worker_job(self.config, self.queue.home, self._token, self._name)
        try:
            job = slurm.submit(new.script, [*new.options, f"--array=0-{lacking - 1}"])
        except SlurmUnavailable:
            return None
        except LaunchError as error:
            return error.problem, error.where, error.fix
        self._submitted.add(job)
        self._fresh[job] = (lacking, time.monotonic() + FRESH_POLLS * self.config.poll_s)
        return None

    def _failed_start(self, tasks: Sequence[SlurmTask]) -> tuple[str, str, str] | None:
        """Return what is wrong if workers ended on a full disk, or several in a row before they could take a job."""
        ended = [task for task in tasks if task.state in ENDED_BY_ITSELF and task.job in self._submitted]
        new = [task for task in ended if task.id not in self._judged]
        if not new:
            return None
        # What a worker wants to say of a full disk has no room on it.
        if (full := write_error(self.queue.path)) is not None:
            return full.problem, full.where or str(self.queue.path), full.fix
        joined = {worker.task for worker in self.queue.workers()}
        for task in new:
            self._judged.add(task.id)
            self._n_failed = 0 if task.id in joined else self._n_failed + 1
        if self._n_failed < FAILED_STARTS:
            return None
        known = slurm.describe(new[-1].id)
        log = self.queue.logs / f"worker-{new[-1].id}.log"
        line, fix = (
            _last_line(log),
            "read that log; modules, setup, container and python are settings of the executor",
        )
        if line is None:
            line = f"exit status {known.get('ExitCode', 'unknown')}, and it left no log"
            node = known.get("NodeList", "a node")
            fix = f"run scalelab in a directory that all nodes share: {node} may not see this one"
        problem = (
            f"{self._n_failed} workers in a row ended before they could take a job, the last one with: {line}"
        )
        return problem, str(log), fix

    # Stopping, and going on after a crash

    def cancel(self, ids: Iterable[str], *, now: bool) -> None:
        """Ask jobs to save and stop, or kill them."""
        ids = list(ids)
        self._queued.cancel(ids, now=now)
        for name in ids:
            if name in self._gangs.open:
                self._gangs.cancel(name, self._tasks, now=now)
                self._asked = float("-inf")

    def find(self, jobs: Sequence[Job]) -> tuple[str, ...]:
        """Return ids of jobs that are still queued or submitted from before."""
        return (*self._queued.find(jobs), *(job.id for job in self._gangs.find(jobs)))

    def close(self) -> None:
        """End workers that have nothing left to do. Jobs that are queued or run go on without this process."""
        if not self._tasks and not self._fresh:
            return
        now = (self.queue.ticket(t.job, t.number) for t in self.queue.open_tickets())
        if self._queued or any(ticket is not None and ticket.wanted == "run" for ticket in now):
            return
        with suppress(SlurmUnavailable, LaunchError):
            tasks = slurm.tasks_named([self._name])
            slurm.cancel(sorted({task.job for task in tasks if task.is_live}))

    @property
    def _name(self) -> str:
        """Name of the workers' Slurm jobs."""
        return f"scalelab-{self._token or self.queue.settings().token}"


def _last_line(log: Path) -> str | None:
    """The last line of a log with an error in it, or the last one; None without any."""
    try:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return None
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or [None])[-1]
