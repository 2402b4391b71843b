"""Devices of this machine, and which of them a job gets: room, memory limits, environment variables.

    slots   jobs in parallel on the whole machine, whatever the number of its devices
    CPU     at most one job per core, each on cores // slots threads
    GPU     each process on one device (CUDA_VISIBLE_DEVICES; on AMD HIP_VISIBLE_DEVICES, where it is
            set), on the one with the fewest jobs; up to max_runs_per_gpu on one while what they may
            take of its memory fits together (hardware/sharing.py), one where there is no estimate
    gang    on devices that no other job uses; on a CPU alone

The number of threads is constant within a sweep, because summing in another order changes the
last bit of results.

Units: bytes. Not here: processes (local.py), how devices are found (hardware/device.py).
"""

import os
from dataclasses import dataclass, field
from typing import Self

from scalelab.errors import LaunchError
from scalelab.hardware.sharing import (
    MEMORY_FRACTION,
    THREAD_PERCENTAGE,
    limit_bytes,
    most_sharing,
    mps_runs,
    thread_percentage,
    usable_bytes,
)
from scalelab.jobs.base import AvailableDevices, Job
from scalelab.train.memory import SHARE_OF_DEVICE

ALL_OF_IT = -1
"""Memory marker of a job that needs a device to itself."""
HIP_DEVICES, CUDA_DEVICES = "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"


@dataclass
class LocalDevice:
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


@dataclass(frozen=True)
class LocalDevices:
    """The devices of this machine and the jobs that run on them."""

    name: str
    on_cpu: bool
    devices: list[LocalDevice]
    slots: int | None
    """Jobs in parallel on the whole machine. None: no limit beyond those of the devices."""
    threads: int | None
    """Threads of each process; None: as torch chooses."""
    variable: str
    """Environment variable that says which GPUs a process sees."""
    has_mps: bool
    cpu: LocalDevice
    """The CPU, for jobs that take no GPU."""
    _taken: dict[str, list[LocalDevice]] = field(default_factory=dict)
    """Devices of each job, in the order of its processes."""
    _needs: dict[tuple[str, int | None], int | None] = field(default_factory=dict)

    @classmethod
    def of(cls, found: list[dict], slots: int | None, max_runs_per_gpu: int) -> Self:
        """Return the devices that a process found, with room for the jobs that the settings allow.

        Args:
            found: One record per device (hardware/device.py, probe).
            slots: See LocalConfig.
            max_runs_per_gpu: See LocalConfig.
        """
        name, memory, auto = str(found[0]["name"]), found[0]["memory_bytes"], found[0]["auto"]
        # torch reads the second one too on AMD, unless the first is set.
        by_hip = found[0].get("is_amd") and HIP_DEVICES in os.environ
        variable = HIP_DEVICES if by_hip else CUDA_DEVICES
        if found[0]["kind"] == "cpu":
            cores = len(os.sched_getaffinity(0))
            parallel = min(slots or cores, cores)
            device = LocalDevice(None, memory, parallel, auto, name)
            return cls(name, True, [device], slots, max(1, cores // parallel), variable, False, device)
        devices = [
            LocalDevice(i, memory, most_sharing(memory, max_runs_per_gpu), d["auto"], str(d["name"]))
            for i, d in enumerate(found)
            for memory in [d["memory_bytes"]]
        ]
        has_mps = not found[0].get("is_amd") and bool(mps_runs())
        cpu = LocalDevice(None, None, len(os.sched_getaffinity(0)), "fp32", "CPU")
        return cls(name, False, devices, slots, None, variable, has_mps, cpu)

    @property
    def available(self) -> AvailableDevices:
        """The devices, for an estimate."""
        if self.on_cpu:
            return AvailableDevices(1, self.name, self.devices[0].max_jobs)
        n = len(self.devices)
        on_cpu = min(self.cpu.max_jobs, self.slots or self.cpu.max_jobs)
        return AvailableDevices(n, self.name, min(n, self.slots or n), is_gpu=True, n_cpu_jobs=on_cpu)

    def check(self, job: Job) -> None:
        """Refuse a job that asks for more GPUs than there are, or for bf16 where too few multiply it.

        Raises:
            LaunchError: It does.
        """
        n = job.resources.processes
        if not self.on_cpu and n > len(self.devices):
            raise LaunchError(
                f"the layout asks for {n} GPUs, {len(self.devices)} are here",
                where=f"{job.dir.path}",
                fix="plan for fewer devices, or start it on several machines with torchrun",
            )
        able = [d for d in self.devices if d.multiplies(job.resources.precision)]
        if not self.on_cpu and len(able) < n:
            without = dict.fromkeys(d.name for d in self.devices if d not in able)
            raise LaunchError(
                f"precision is bf16 for {n} GPU(s), and {len(able)} of {len(self.devices)} here multiply it; "
                f"{', '.join(without)} {'does' if len(without) == 1 else 'do'} not",
                where=str(job.dir.path),
                fix="set `precision: auto` or `precision: fp32` in the recipe, or use a GPU of compute "
                "capability 8.0 or higher",
            )

    def runs_on_cpu(self, job: Job) -> bool:
        """True if a job's processes compute on the CPU."""
        return self.on_cpu or (job.resources.cpu_only and job.resources.processes == 1)

    def has_room(self, job: Job) -> bool:
        """True if a slot is free, and enough devices have room and memory for a job."""
        return self._free_for(job) is not None

    def take(self, job: Job) -> list[dict[str, str]]:
        """Give a job its devices, and return the environment variables of each of its processes.

        Call it only after has_room returned True.
        """
        devices = self._free_for(job)
        assert devices is not None, "take only after has_room"
        is_gang = job.resources.processes > 1
        for device in devices:
            device.jobs[job.id] = ALL_OF_IT if is_gang else device.limit(self._need(job, device))
        self._taken[job.id] = devices
        return [self._visible(device) | self._share(device, job) for device in devices]

    def release(self, job: str) -> None:
        """Take the devices of a job that has ended back."""
        for device in self._taken.pop(job):
            device.jobs.pop(job, None)

    def first(self) -> dict[str, str]:
        """Return the environment variables of a process on the first device, whatever runs there."""
        return self._visible(self.devices[0])

    def _free_for(self, job: Job) -> list[LocalDevice] | None:
        """Return a device for each process of a job; None without room."""
        if self.slots is not None and len(self._taken) >= self.slots:
            return None
        n = job.resources.processes
        if self.runs_on_cpu(job) and not self.on_cpu:
            return [self.cpu] if self.cpu.fits(None) else None
        if n == 1:
            able = (d for d in self.devices if d.multiplies(job.resources.precision))
            free = [d for d in able if d.fits(self._need(job, d))]
            return [min(free, key=lambda d: len(d.jobs))] if free else None
        idle = [d for d in self.devices if not d.jobs and d.multiplies(job.resources.precision)]
        if self.on_cpu:  # its processes share all cores; no other job runs beside them
            return idle * n if idle else None
        return idle[:n] if len(idle) >= n else None

    def _need(self, job: Job, device: LocalDevice) -> int | None:
        """Return the memory that a job should take on a device, bytes; estimated once for each."""
        key = (job.id, device.index)
        if key not in self._needs:
            estimate = job.resources.memory
            kind = "cpu" if self.on_cpu else "cuda"
            self._needs[key] = estimate and estimate(kind, device.memory_bytes, device.precision)
        return self._needs[key]

    def _visible(self, device: LocalDevice) -> dict[str, str]:
        """Return the variable that shows a process one GPU, within what this process itself may see."""
        if device.index is None:
            return {}
        shown = os.environ.get(self.variable)
        return {self.variable: shown.split(",")[device.index] if shown else str(device.index)}

    def _share(self, device: LocalDevice, job: Job) -> dict[str, str]:
        """Return the limits of a job that shares its GPU, as environment variables."""
        limit = device.jobs[job.id]
        if device.index is None or limit == ALL_OF_IT:
            return {}
        share = {}
        if device.memory_bytes is not None:
            share[MEMORY_FRACTION] = f"{limit / device.memory_bytes:.4f}"
        if self.has_mps and THREAD_PERCENTAGE not in os.environ:
            share[THREAD_PERCENTAGE] = thread_percentage(device.max_jobs)
        return share
