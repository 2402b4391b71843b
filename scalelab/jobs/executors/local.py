"""Jobs on this machine, each process on one device: a GPU, or a core of the CPU.

Every process is forked from one server (forkserver.py), so it starts in milliseconds. A process
that crashes ends only its own job.

    job     takes the devices that local_devices.py gives it
    gang    the processes of one job start together; if one of them dies, the others are killed

Not here: the devices, and how many jobs share one (local_devices.py).
"""

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

from scalelab.config import Count
from scalelab.errors import ScalelabError
from scalelab.jobs.base import (
    AvailableDevices,
    Capabilities,
    ExecutorConfig,
    Job,
    JobOutcome,
    ProcessReport,
    State,
)
from scalelab.jobs.executors.exit_status import classify
from scalelab.jobs.executors.forkserver import devices_here, fork_server, start
from scalelab.jobs.executors.local_devices import LocalDevices
from scalelab.jobs.executors.process_group import free_port, rendezvous
from scalelab.jobs.record import write_record
from scalelab.registry import resolved

LAST_WORDS_S = 0.2
"""Seconds that other processes of a gang have to report after one has died."""


class LocalConfig(ExecutorConfig):
    """Processes on this machine."""

    kind: Literal["local"] = "local"
    slots: Count | None = None
    """Jobs in parallel on the whole machine, over all its GPUs together. None: one per CPU core, or as
    many on each GPU as fit in its memory, up to max_runs_per_gpu. On a CPU more than its cores count
    as one per core. A job of several processes counts as one. Example: 8."""
    max_runs_per_gpu: Count = 4
    """Upper limit of jobs on each GPU, since they also share its compute. Each may allocate a share of
    the memory only, so that none takes what the others need. Example: 1."""

    def start(self, preload: Sequence[str] = (), home: Path | None = None) -> "LocalExecutor":
        """Return the executor with the devices of this machine."""
        del home
        return LocalExecutor(self, preload)


@dataclass
class _Process:
    process: BaseProcess
    report: Connection
    reported: ProcessReport | None = None

    def listen(self) -> None:
        """Read its report so far, so that a long report never blocks it."""
        try:
            if self.reported is None and self.report.poll():
                self.reported = self.report.recv()
        except (EOFError, OSError):
            pass


@dataclass
class _Running:
    job: Job
    processes: list[_Process] = field(default_factory=list)
    first_gone: int | None = None
    kill_at: float | None = None


class LocalExecutor:
    """Processes on one machine, forked, watched and ended.

    The server is started and asked for its devices when they are first needed: a sweep that is trained
    already starts none.
    """

    capabilities = Capabilities(gangs=True, timing=True)

    def __init__(self, config: LocalConfig, preload: Sequence[str] = ()):
        self._config, self._preload = config, ("scalelab.jobs.worker", *preload)
        self._running: dict[str, _Running] = {}

    @cached_property
    def _context(self) -> ForkServerContext:
        return fork_server(self._preload)

    @cached_property
    def _devices(self) -> LocalDevices:
        found = devices_here(self._context)
        return LocalDevices.of(found, self._config.slots, self._config.max_runs_per_gpu)

    @property
    def devices(self) -> AvailableDevices:
        """Devices that were found, for an estimate."""
        return self._devices.available

    def call(self, function: str, *arguments: Any, limit_s: float | None = None) -> Any | None:
        """Return the value of "module:function" on the first device, or None if it failed or took longer.

        Raises:
            ScalelabError: The function's own: a person has to fix something first.
        """
        from_child, to_parent = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=_call,
            args=(to_parent, self._devices.first(), self._devices.threads, function, arguments),
            daemon=True,
        )
        start(process)
        to_parent.close()
        try:
            answer = from_child.recv() if from_child.poll(limit_s) else None
        except (EOFError, ConnectionError):
            return None
        finally:
            if limit_s is not None:
                process.join(LAST_WORDS_S)
                process.kill()
            process.join()
        if isinstance(answer, ScalelabError):
            raise answer
        return answer

    def check(self, job: Job) -> None:
        """Refuse a job that asks for more GPUs than there are, or for bf16 where too few multiply it."""
        self._devices.check(job)

    def has_room(self, job: Job) -> bool:
        """True if a slot is free, and enough devices have room and memory for it."""
        return self._devices.has_room(job)

    def submit(self, job: Job) -> None:
        """Fork the job's processes."""
        devices, n, port = self._devices, job.resources.processes, free_port()
        threads = (job.resources.threads or devices.threads) if devices.runs_on_cpu(job) else None
        write_record(job, threads)
        running = self._running[job.id] = _Running(job)
        for rank, environ in enumerate(devices.take(job)):
            if n > 1:
                environ = environ | rendezvous(rank, n, port)
            from_child, to_parent = self._context.Pipe(duplex=False)
            process = self._context.Process(
                target=_work, args=(str(job.dir.path), environ, threads, to_parent)
            )
            start(process)
            to_parent.close()
            running.processes.append(_Process(process, from_child))

    def poll(self) -> dict[str, State]:
        """Return each job's state. A gang has ended once one of its processes is gone."""
        states: dict[str, State] = {}
        for name, running in list(self._running.items()):
            for process in running.processes:
                process.listen()
            alive = [p for p in running.processes if p.process.is_alive()]
            if alive and len(alive) < len(running.processes):
                self._end_what_is_left(running)
            if alive:
                states[name] = "running"
                continue
            states[name] = self._ended(running)
            self._devices.release(name)
            del self._running[name]
        return states

    def _end_what_is_left(self, running: _Running) -> None:
        codes = [p.process.exitcode for p in running.processes]
        gone = [rank for rank, code in enumerate(codes) if code not in (None, 0)]
        if gone and running.kill_at is None:
            running.first_gone = gone[0]
            running.kill_at = time.monotonic() + LAST_WORDS_S
        if running.kill_at is not None and time.monotonic() >= running.kill_at:
            for process in running.processes:
                process.process.kill()

    def _ended(self, running: _Running) -> JobOutcome:
        codes, reported = [], []
        for process in running.processes:
            process.process.join()
            process.listen()
            codes.append(process.process.exitcode)
            reported.append(process.reported)
            process.report.close()
            process.process.close()
        return classify(running.job, reported, codes, running.first_gone)

    def cancel(self, ids: Iterable[str], *, now: bool) -> None:
        """Ask every process of these jobs to save and stop, or end it."""
        for name in ids:
            for process in self._running[name].processes if name in self._running else ():
                (process.process.kill if now else process.process.terminate)()

    def find(self, jobs: Sequence[Job]) -> tuple[str, ...]:
        """None: a process leaves with the one that forked it."""
        del jobs
        return ()

    def close(self) -> None:
        """End what is left, and wait for it."""
        self.cancel(list(self._running), now=True)
        while self._running:
            self.poll()
            time.sleep(0.01)


def _work(*arguments: Any) -> None:
    from scalelab.jobs.worker import work  # torch: loaded in the server, not in the parent

    work(*arguments)


def _call(
    report: Connection, environ: dict[str, str], threads: int | None, function: str, arguments: Any
) -> None:
    from scalelab.hardware.device import use_threads
    from scalelab.jobs.worker import leave_with_parent  # likewise

    leave_with_parent()
    os.environ.update(environ)
    use_threads(threads)
    try:
        report.send(resolved(function)(*arguments))
    except ScalelabError as error:
        report.send(error)
