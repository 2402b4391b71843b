"""An executor: a pool of threads, each of which waits for processes that it has started.

Every process is `python -m scalelab.jobs.worker JOB_DIR`, as a scheduler would start it, and says
in a file how it ended.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from scalelab.config import Count
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
from scalelab.jobs.executors.process_group import free_port, rendezvous
from scalelab.jobs.record import write_record
from scalelab.jobs.worker import REPORT


class PoolConfig(ExecutorConfig):
    """Threads that start processes."""

    kind: Literal["pool"] = "pool"
    size: Count = 2
    """Jobs at once."""

    def start(self, preload: Sequence[str] = (), home: Path | None = None) -> "Pool":
        del preload, home  # every process is a fresh Python
        return Pool(self.size)


class Pool:
    capabilities = Capabilities(gangs=True, timing=False)

    def __init__(self, size: int):
        self.devices = AvailableDevices(size, "thread", size)
        self._threads = ThreadPoolExecutor(size)
        self._reports = tempfile.TemporaryDirectory()
        self._jobs: dict[str, tuple[Job, Future]] = {}
        self._processes: dict[str, list[subprocess.Popen]] = {}

    def call(self, function: str, *arguments: Any, limit_s: float | None = None) -> None:
        del function, arguments, limit_s

    def check(self, job: Job) -> None:
        del job

    def has_room(self, job: Job) -> bool:
        del job
        return len(self._jobs) < self.devices.n

    def submit(self, job: Job) -> None:
        write_record(job, job.resources.threads or 1)
        n, port = job.resources.processes, free_port()
        report = Path(self._reports.name) / job.id
        self._processes[job.id] = [
            subprocess.Popen(
                [sys.executable, "-m", "scalelab.jobs.worker", str(job.dir.path)],
                env=os.environ | {REPORT: str(report)} | (rendezvous(rank, n, port) if n > 1 else {}),
                start_new_session=True,
                stderr=subprocess.DEVNULL,
            )
            for rank in range(n)
        ]
        self._jobs[job.id] = (job, self._threads.submit(self._wait, job, report))

    def _wait(self, job: Job, report: Path) -> JobOutcome:
        processes, first_gone = self._processes[job.id], None
        while any(p.poll() is None for p in processes):
            gone = [i for i, p in enumerate(processes) if p.poll() not in (None, 0)]
            if gone and first_gone is None:
                first_gone = gone[0]
                for process in processes:
                    try:
                        process.wait(0.5)
                    except subprocess.TimeoutExpired:
                        process.kill()
            try:
                processes[0].wait(0.05)
            except subprocess.TimeoutExpired:
                continue
        said = []
        for rank in range(len(processes)):
            place = Path(f"{report}-{rank}.json")
            said.append(ProcessReport(**json.loads(place.read_text())) if place.exists() else None)
            place.unlink(missing_ok=True)
        return classify(job, said, [p.returncode for p in processes], first_gone)

    def poll(self) -> dict[str, State]:
        states: dict[str, State] = {}
        for name, (_, future) in list(self._jobs.items()):
            states[name] = future.result() if future.done() else "running"
            if future.done():
                del self._jobs[name], self._processes[name]
        return states

    def cancel(self, ids: Iterable[str], *, now: bool) -> None:
        for name in ids:
            for process in self._processes.get(name, ()):
                process.send_signal(signal.SIGKILL if now else signal.SIGTERM)

    def find(self, jobs: Sequence[Job]) -> tuple[str, ...]:
        del jobs
        return ()

    def close(self) -> None:
        self.cancel(list(self._jobs), now=True)
        self._threads.shutdown()
        self._reports.cleanup()
