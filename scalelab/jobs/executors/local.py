"""Jobs on this machine, each process on one device: a GPU, or a core of the CPU.

Every process is forked from one server (forkserver.py), so it starts in milliseconds. A process
that crashes ends only its own job.

    slots   jobs in parallel on the whole machine, whatever the number of its devices
    CPU     at most one job per core, each on cores // slots threads
    GPU     each process on one device (CUDA_VISIBLE_DEVICES; on AMD HIP_VISIBLE_DEVICES, where it is
            set), on the one with the fewest jobs; up to max_runs_per_gpu on one while what they may
            take of its memory fits together (hardware/sharing.py), one where there is no estimate
    gang    the processes of one job start together, on devices that no other job uses; if one
            of them dies, the others are killed

The number of threads is constant within a sweep, because summing in another order changes the
last bit of results.
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
from scalelab.errors import LaunchError, ScalelabError
from scalelab.hardware.sharing import (
    MEMORY_FRACTION,
    THREAD_PERCENTAGE,
    limit_bytes,
    most_sharing,
    mps_runs,
    thread_percentage,
    usable_bytes,
)
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
from scalelab.jobs.executors.process_group import free_port, rendezvous
from scalelab.jobs.record import write_record
from scalelab.registry import resolved
from scalelab.train.memory import SHARE_OF_DEVICE

ALL_OF_IT = -1
"""Memory marker of a job that needs a device to itself."""
HIP_DEVICES, CUDA_DEVICES = "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"
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
class _Place:
    """One device, and the memory that its jobs are expected to use."""

    index: int | None
    """The GPU's number; None is the CPU."""
    memory_bytes: int | None
    max_jobs: int
    precision: str
    """Precision of jobs that leave it to the device: fp32 or bf16."""
    name: str
    jobs: dict[str, int] = field(default_factory=dict)
    """Memory that each job may take, bytes; ALL_OF_IT for one that does not share the device."""

    def multiplies(self, asked: str) -> bool:
        """True if it computes in a precision: a CPU in each, a GPU in bf16 where auto is bf16."""
        return asked != "bf16" or self.index is None or self.precision == "bf16"

    def fits(self, need: int | None) -> bool:
        """True if one more job of so many bytes fits; None if unknown."""
        if not self.jobs:
            return True  # alone, a job may try: it halves its micro-batch where it must
        if len(self.jobs) >= self.max_jobs or ALL_OF_IT in self.jobs.values():
            return False
        if need is None:
            return self.index is None
        if self.memory_bytes is None:
            return True
        if self.index is None:
            return sum(self.jobs.values()) + need <= SHARE_OF_DEVICE * self.memory_bytes
        limit = self.limit(need)
        usable = usable_bytes(self.memory_bytes, self.max_jobs)
        return limit != ALL_OF_IT and sum(self.jobs.values()) + limit <= usable

    def limit(self, need: int | None) -> int:
        """Return the memory that a job of so many bytes may take here, or ALL_OF_IT."""
        if self.index is None:
            return need or 0
        if need is None or self.max_jobs == 1:
            return ALL_OF_IT
        if self.memory_bytes is None:
            return need
        limit = limit_bytes(self.memory_bytes, self.max_jobs, need, SHARE_OF_DEVICE)
        return limit if limit <= usable_bytes(self.memory_bytes, self.max_jobs) else ALL_OF_IT


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
    places: list[_Place]
    processes: list[_Process] = field(default_factory=list)
    first_gone: int | None = None
    kill_at: float | None = None


@dataclass(frozen=True)
class _Machine:
    """The devices of this machine."""

    name: str
    on_cpu: bool
    places: list[_Place]
    threads: int | None
    """Threads of each process; None: as torch chooses."""
    variable: str
    """Environment variable that says which GPUs a process sees."""
    has_mps: bool

    @classmethod
    def of(cls, devices: list[dict], config: LocalConfig) -> "_Machine":
        """Return the devices that a process found, with room for the jobs that the settings allow."""
        name, memory, auto = str(devices[0]["name"]), devices[0]["memory_bytes"], devices[0]["auto"]
        # torch reads the second one too on AMD, unless the first is set.
        by_hip = devices[0].get("is_amd") and HIP_DEVICES in os.environ
        variable = HIP_DEVICES if by_hip else CUDA_DEVICES
        if devices[0]["kind"] == "cpu":
            cores = len(os.sched_getaffinity(0))
            slots = min(config.slots or cores, cores)
            place = _Place(None, memory, slots, auto, name)
            return cls(name, True, [place], max(1, cores // slots), variable, False)
        most = config.max_runs_per_gpu
        places = [
            _Place(i, memory, most_sharing(memory, most), d["auto"], str(d["name"]))
            for i, d in enumerate(devices)
            for memory in [d["memory_bytes"]]
        ]
        return cls(name, False, places, None, variable, not devices[0].get("is_amd") and bool(mps_runs()))


class LocalExecutor:
    """Processes on one machine, forked, watched and ended.

    The server is started and asked for its devices when they are first needed: a sweep that is trained
    already starts none.
    """

    capabilities = Capabilities(gangs=True, timing=True)

    def __init__(self, config: LocalConfig, preload: Sequence[str] = ()):
        self._config, self._preload = config, ("scalelab.jobs.worker", *preload)
        self._running: dict[str, _Running] = {}
        self._needs: dict[tuple[str, int | None], int | None] = {}

    @cached_property
    def _context(self) -> ForkServerContext:
        return fork_server(self._preload)

    @cached_property
    def _machine(self) -> _Machine:
        return _Machine.of(devices_here(self._context), self._config)

    @property
    def devices(self) -> AvailableDevices:
        """Devices that were found, for an estimate."""
        here = self._machine
        if here.on_cpu:
            return AvailableDevices(1, here.name, here.places[0].max_jobs)
        n = len(here.places)
        return AvailableDevices(n, here.name, min(n, self._config.slots or n), is_gpu=True)

    def call(self, function: str, *arguments: Any, limit_s: float | None = None) -> Any | None:
        """Return the value of "module:function" on the first device, or None if it failed or took longer.

        Raises:
            ScalelabError: The function's own: a person has to fix something first.
        """
        from_child, to_parent = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=_call,
            args=(
                to_parent,
                self._environ([self._machine.places[0]], 0),
                self._machine.threads,
                function,
                arguments,
            ),
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
        n = job.resources.processes
        if not self._machine.on_cpu and n > len(self._machine.places):
            raise LaunchError(
                f"the layout asks for {n} GPUs, {len(self._machine.places)} are here",
                where=f"{job.dir.path}",
                fix="plan for fewer devices, or start it on several machines with torchrun",
            )
        able = [p for p in self._machine.places if p.multiplies(job.resources.precision)]
        if not self._machine.on_cpu and len(able) < n:
            without = dict.fromkeys(p.name for p in self._machine.places if p not in able)
            raise LaunchError(
                f"precision is bf16 for {n} GPU(s), and {len(able)} of {len(self._machine.places)} here multiply it; "
                f"{', '.join(without)} {'does' if len(without) == 1 else 'do'} not",
                where=str(job.dir.path),
                fix="set `precision: auto` or `precision: fp32` in the recipe, or use a GPU of compute "
                "capability 8.0 or higher",
            )

    def has_room(self, job: Job) -> bool:
        """True if a slot is free, and enough devices have room and memory for it."""
        return self._places_for(job) is not None

    def _places_for(self, job: Job) -> list[_Place] | None:
        if self._config.slots is not None and len(self._running) >= self._config.slots:
            return None
        n = job.resources.processes
        if n == 1:
            able = (p for p in self._machine.places if p.multiplies(job.resources.precision))
            free = [p for p in able if p.fits(self._need(job, p))]
            return [min(free, key=lambda p: len(p.jobs))] if free else None
        idle = [p for p in self._machine.places if not p.jobs and p.multiplies(job.resources.precision)]
        if self._machine.on_cpu:  # its processes share all cores; no other job runs beside them
            return idle * n if idle else None
        return idle[:n] if len(idle) >= n else None

    def _need(self, job: Job, place: _Place) -> int | None:
        """Memory that a job should take on a device, bytes; reckoned once for each."""
        key = (job.id, place.index)
        if key not in self._needs:
            estimate = job.resources.memory
            kind = "cpu" if self._machine.on_cpu else "cuda"
            self._needs[key] = estimate and estimate(kind, place.memory_bytes, place.precision)
        return self._needs[key]

    def submit(self, job: Job) -> None:
        """Fork the job's processes."""
        places = self._places_for(job)
        assert places is not None, "submit only after has_room"
        threads = (job.resources.threads or self._machine.threads) if self._machine.on_cpu else None
        write_record(job, threads)
        n, port = job.resources.processes, free_port()
        running = _Running(job, places)
        for place in places:
            place.jobs[job.id] = ALL_OF_IT if n > 1 else place.limit(self._need(job, place))
        self._running[job.id] = running
        for rank in range(n):
            environ = self._environ(places, rank) | self._share(places[rank], job)
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
        return {} if index is None else {self._machine.variable: _visible(self._machine.variable, index)}

    def _share(self, place: _Place, job: Job) -> dict[str, str]:
        """Return the limits of a job that shares its GPU, as environment variables."""
        limit = place.jobs[job.id]
        if place.index is None or limit == ALL_OF_IT:
            return {}
        share = {}
        if place.memory_bytes is not None:
            share[MEMORY_FRACTION] = f"{limit / place.memory_bytes:.4f}"
        if self._machine.has_mps and THREAD_PERCENTAGE not in os.environ:
            share[THREAD_PERCENTAGE] = thread_percentage(place.max_jobs)
        return share

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


def _visible(variable: str, index: int) -> str:
    """The GPU's name for a child, within what this process itself may see."""
    shown = os.environ.get(variable)
    return shown.split(",")[index] if shown else str(index)
