"""Jobs on this machine, each process on one device: a GPU, or a core of the CPU.

Every process is forked from one server (forks.py), so it starts in milliseconds. A process that
crashes takes nothing with it but its own job.

    CPU   as many jobs as cores, each on cores // slots threads
    GPU   each process on one device (CUDA_VISIBLE_DEVICES); several jobs on one while the
          estimates of their memory fit together, one where there is no estimate
    gang  the processes of one job start together, on devices that nobody else uses, and where
          one of them dies the others are ended

The number of threads stays as it is to the end of a sweep, because sums in another order
give another last bit.
"""

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Literal

from scalelab.config import Count
from scalelab.errors import LaunchError
from scalelab.jobs.base import Capabilities, Devices, Ended, ExecutorConfig, Job, Said, State
from scalelab.jobs.endings import classify
from scalelab.jobs.forks import devices_here, fork_server, start
from scalelab.jobs.gangs import free_port, rendezvous
from scalelab.jobs.record import write_down
from scalelab.registry import resolved
from scalelab.train.memory import SHARE_OF_DEVICE

ALL_OF_IT = -1
"""Stands for the memory of a job that shares its device with nobody."""
LAST_WORDS_S = 0.2
"""How long the others of a gang may go on to say why they fail, once one of them is gone."""


class LocalConfig(ExecutorConfig):
    """Processes on this machine."""

    kind: Literal["local"] = "local"
    slots: Count | None = None
    """Jobs at once. None: one per CPU core, or on GPUs as many as their memory holds."""
    max_runs_per_gpu: Count = 4
    """Upper end of that, since jobs on one GPU also share its arithmetic."""

    def start(self, preload: Sequence[str] = ()) -> "Local":
        """The executor, with the devices that are here."""
        return Local(self, preload)


@dataclass
class _Place:
    """One device, and the memory that its jobs are expected to use."""

    index: int | None
    """The GPU's number; None is the CPU."""
    memory_bytes: int | None
    max_jobs: int
    jobs: dict[str, int] = field(default_factory=dict)

    def fits(self, need: int | None) -> bool:
        """Whether one more job fits that takes so many bytes; None is unknown."""
        if not self.jobs:
            return True  # alone, a job may try: it halves its micro-batch where it must
        if len(self.jobs) >= self.max_jobs or ALL_OF_IT in self.jobs.values():
            return False
        if need is None:
            return self.index is None
        return self.memory_bytes is None or (
            sum(self.jobs.values()) + need <= SHARE_OF_DEVICE * self.memory_bytes
        )


@dataclass
class _Process:
    process: BaseProcess
    report: Connection
    said: Said | None = None

    def listen(self) -> None:
        """Take what it has said, so that a long report never blocks it."""
        try:
            if self.said is None and self.report.poll():
                self.said = self.report.recv()
        except (EOFError, OSError):
            pass


@dataclass
class _Running:
    job: Job
    places: list[_Place]
    processes: list[_Process] = field(default_factory=list)
    first_gone: int | None = None
    kill_at: float | None = None


class Local:
    """Processes on one machine, forked, watched and ended."""

    capabilities = Capabilities(gangs=True, timing=True)

    def __init__(self, config: LocalConfig, preload: Sequence[str] = ()):
        self._context = fork_server(("scalelab.jobs.worker", *preload))
        self._running: dict[str, _Running] = {}
        self._needs: dict[tuple[str, int | None], int | None] = {}
        devices = devices_here(self._context)
        self._name = str(devices[0]["name"])
        self._on_cpu = devices[0]["kind"] == "cpu"
        self._places, self._threads = [], None
        if self._on_cpu:
            cores = len(os.sched_getaffinity(0))
            slots = min(config.slots or cores, cores)
            self._threads = max(1, cores // slots)
            self._places = [_Place(None, devices[0]["memory_bytes"], slots)]
        else:
            most = config.slots or config.max_runs_per_gpu
            self._places = [_Place(i, d["memory_bytes"], most) for i, d in enumerate(devices)]

    @property
    def devices(self) -> Devices:
        """What was found, for an estimate."""
        if self._on_cpu:
            return Devices(1, self._name, self._places[0].max_jobs)
        return Devices(len(self._places), self._name, len(self._places))

    def call(self, function: str, *arguments: Any) -> Any | None:
        """What "module:function" returns in a process on the first device; None where it failed."""
        from_child, to_parent = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=_call,
            args=(to_parent, self._environ([self._places[0]], 0), self._threads, function,
                  arguments),
            daemon=True,
        )  # fmt: skip
        start(process)
        to_parent.close()
        try:
            return from_child.recv()
        except (EOFError, ConnectionError):
            return None
        finally:
            process.join()

    def check(self, job: Job) -> None:
        """Refuse a job that asks for more GPUs than there are."""
        n = job.resources.processes
        if not self._on_cpu and n > len(self._places):
            raise LaunchError(
                f"the layout asks for {n} GPUs, {len(self._places)} are here",
                where=f"{job.dir.path}",
                fix="plan for fewer devices, or start it on several machines with torchrun",
            )

    def has_room(self, job: Job) -> bool:
        """Whether enough devices have a free slot and memory for it."""
        return self._places_for(job) is not None

    def _places_for(self, job: Job) -> list[_Place] | None:
        n = job.resources.processes
        if n == 1:
            free = [p for p in self._places if p.fits(self._need(job, p))]
            return [min(free, key=lambda p: len(p.jobs))] if free else None
        idle = [p for p in self._places if not p.jobs]
        if self._on_cpu:  # its processes share the cores, and the machine with nobody
            return idle * n if idle else None
        return idle[:n] if len(idle) >= n else None

    def _need(self, job: Job, place: _Place) -> int | None:
        """Memory that a job should take on a device, bytes; reckoned once for each."""
        key = (job.id, place.index)
        if key not in self._needs:
            estimate = job.resources.memory
            kind = "cpu" if self._on_cpu else "cuda"
            self._needs[key] = estimate and estimate(kind, place.memory_bytes)
        return self._needs[key]

    def submit(self, job: Job) -> None:
        """Fork the job's processes."""
        places = self._places_for(job)
        assert places is not None, "submit only after has_room"
        threads = (job.resources.threads or self._threads) if self._on_cpu else None
        write_down(job, threads)
        n, port = job.resources.processes, free_port()
        running = _Running(job, places)
        for place in places:
            need = self._need(job, place)
            alone = n > 1 or (need is None and not self._on_cpu)
            place.jobs[job.id] = ALL_OF_IT if alone else need or 0
        self._running[job.id] = running
        for rank in range(n):
            environ = self._environ(places, rank)
            if n > 1:
                environ |= rendezvous(rank, n, port)
            from_child, to_parent = self._context.Pipe(duplex=False)
            process = self._context.Process(
                target=_work, args=(str(job.dir.path), environ, threads, to_parent)
            )
            start(process)
            to_parent.close()
            running.processes.append(_Process(process, from_child))

    def _environ(self, places: Sequence[_Place], rank: int) -> dict[str, str]:
        index = places[rank].index
        return {} if index is None else {"CUDA_VISIBLE_DEVICES": _visible(index)}

    def poll(self) -> dict[str, State]:
        """Whether each job runs or has ended. A gang is ended once one of its processes is gone."""
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
            for place in running.places:
                place.jobs.pop(name, None)
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

    def _ended(self, running: _Running) -> Ended:
        codes, said = [], []
        for process in running.processes:
            process.process.join()
            process.listen()
            codes.append(process.process.exitcode)
            said.append(process.said)
            process.report.close()
            process.process.close()
        return classify(running.job, said, codes, running.first_gone)

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
    from scalelab.jobs.worker import leave_with_parent  # likewise
    from scalelab.train.device import use_threads

    leave_with_parent()
    os.environ.update(environ)
    use_threads(threads)
    report.send(resolved(function)(*arguments))


def _visible(index: int) -> str:
    """The GPU's name for a child, within what this process itself may see."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    return shown.split(",")[index] if shown else str(index)
