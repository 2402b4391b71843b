"""Runs on this machine, each in a process of its own, on the devices that there are.

Every run is forked from one server (forks.py), so it starts in milliseconds. A worker that
crashes takes nothing with it but its own run, which goes on from its checkpoint when it is
tried again.

    CPU   as many runs as cores, each on cores // runs threads
    GPU   each run on one device (CUDA_VISIBLE_DEVICES); several on one while the estimates
          of their memory fit together

The number of threads stays as it is to the end of a sweep, because sums in another order
give another last bit.
"""

import os
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from scalelab.launch.base import Devices, Ended, LaunchConfig, Outcome
from scalelab.launch.forks import TRAINING, devices_here, fork_server, start
from scalelab.train.memory import SHARE_OF_DEVICE, first_micro_rows, run_bytes
from scalelab.train.rundir import RunDir
from scalelab.train.spec import RunSpec

GRACE_S = 60.0
"""How long a worker may take to save and stop before it is ended."""


@dataclass
class _Place:
    """One device, and the memory that its runs are expected to use."""

    index: int | None
    """The GPU's number; None is the CPU."""
    memory_bytes: int | None
    max_runs: int
    runs: dict[str, int] = field(default_factory=dict)

    def fits(self, need: int) -> bool:
        if len(self.runs) >= self.max_runs:
            return False
        if not self.runs or self.memory_bytes is None:
            return True  # alone, a run may try: it halves its micro-batch where it must
        return sum(self.runs.values()) + need <= SHARE_OF_DEVICE * self.memory_bytes


@dataclass
class _Job:
    run_dir: RunDir
    process: BaseProcess
    report: Connection
    place: _Place
    started: float
    log_size: int = -1
    log_grew: float = 0.0
    ended_by_us: Outcome | None = None
    why: str | None = None


class Local:
    """The supervisor of worker processes on one machine."""

    def __init__(self, config: LaunchConfig):
        self.config = config
        self._context = fork_server(TRAINING)
        self._jobs: dict[str, _Job] = {}
        self._needs: dict[tuple[str, int | None], int] = {}
        self._stop_at: float | None = None
        self._places, self._threads = self._find_places()

    def _find_places(self) -> tuple[list[_Place], int | None]:
        devices = devices_here(self._context)
        self._name = str(devices[0]["name"])
        if devices[0]["kind"] == "cpu":
            cores = len(os.sched_getaffinity(0))
            slots = min(self.config.slots or cores, cores)
            return [_Place(None, devices[0]["memory_bytes"], slots)], max(1, cores // slots)
        most = self.config.slots or self.config.max_runs_per_gpu
        return [_Place(i, d["memory_bytes"], most) for i, d in enumerate(devices)], None

    @property
    def devices(self) -> Devices:
        """What was found, for an estimate."""
        if self._places[0].index is None:
            return Devices(1, self._name, self._places[0].max_runs)
        return Devices(len(self._places), self._name, len(self._places))

    def measure(self, specs: list[RunSpec]) -> list[float] | None:
        """Seconds per token of each spec on the first device, timed in a worker, alone.

        None where the timing itself failed.
        """
        environ = {} if self._places[0].index is None else {"CUDA_VISIBLE_DEVICES": _visible(0)}
        from_child, to_parent = self._context.Pipe(duplex=False)
        texts = [spec.to_yaml() for spec in specs]
        process = self._context.Process(
            target=_time, args=(to_parent, self._threads, environ, texts), daemon=True
        )
        start(process)
        to_parent.close()
        try:
            return from_child.recv()
        except (EOFError, ConnectionError):
            return None
        finally:
            process.join()

    def has_room(self, run_dir: RunDir) -> bool:
        """Whether some device has a free slot and memory for this run."""
        return self._stop_at is None and self._place_for(run_dir) is not None

    def _place_for(self, run_dir: RunDir) -> _Place | None:
        free = [p for p in self._places if p.fits(self._need(run_dir, p))]
        return min(free, key=lambda p: len(p.runs), default=None)

    def _need(self, run_dir: RunDir, place: _Place) -> int:
        """Memory that a run should take on a device, bytes; reckoned once for each."""
        key = (run_dir.run, place.index)
        if key not in self._needs:
            spec = run_dir.spec()
            kind = "cpu" if place.index is None else "cuda"
            precision = "fp32" if spec.precision == "fp32" else "bf16"
            rows = first_micro_rows(spec, kind, place.memory_bytes, precision)
            self._needs[key] = run_bytes(spec, precision, rows)
        return self._needs[key]

    def submit(self, run_dir: RunDir) -> None:
        """Fork a worker for the run."""
        place = self._place_for(run_dir)
        assert place is not None, "submit only after has_room"
        environ = {} if place.index is None else {"CUDA_VISIBLE_DEVICES": _visible(place.index)}
        from_child, to_parent = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=_work, args=(str(run_dir.path), self._threads, environ, to_parent)
        )
        start(process)
        to_parent.close()
        place.runs[run_dir.run] = self._need(run_dir, place)
        now = time.monotonic()
        self._jobs[run_dir.run] = _Job(run_dir, process, from_child, place, now, log_grew=now)

    def poll(self) -> list[Ended]:
        """Workers that ended; those that make no progress are ended first."""
        now, ended = time.monotonic(), []
        for run, job in list(self._jobs.items()):
            if job.process.is_alive():
                self._watch(job, now)
                continue
            job.process.join()
            ended.append(self._classify(job))
            job.report.close()
            job.process.close()
            del job.place.runs[run], self._jobs[run]
        return ended

    def _watch(self, job: _Job, now: float) -> None:
        size = job.run_dir.log_path.stat().st_size if job.run_dir.log_path.exists() else 0
        if size != job.log_size:
            job.log_size, job.log_grew = size, now
        limits = self.config
        silent = now - job.log_grew
        if silent > limits.heartbeat_timeout_s:
            self._end(job, "stalled", f"logged nothing for {silent:.0f} s")
        elif limits.wall_timeout_s is not None and now - job.started > limits.wall_timeout_s:
            self._end(job, "stalled", f"ran past wall_timeout_s {limits.wall_timeout_s:.0f}")
        elif self._stop_at is not None and now > self._stop_at + GRACE_S:
            self._end(job, "interrupted", f"did not stop within {GRACE_S:.0f} s")

    def _end(self, job: _Job, outcome: Outcome, why: str) -> None:
        if job.ended_by_us is None:
            job.ended_by_us, job.why = outcome, why
            job.process.kill()

    def _classify(self, job: _Job) -> Ended:
        if job.run_dir.is_done:
            return Ended(job.run_dir, "done")
        try:
            outcome, reason = job.report.recv() if job.report.poll() else (None, None)
        except (EOFError, ConnectionError):
            outcome, reason = None, None
        code = job.process.exitcode
        if outcome is None:
            outcome = job.ended_by_us or "killed"
            by = f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"
            reason = job.why or f"the process ended by {by}"
            if outcome == "killed" and self._stop_at is not None:
                outcome = "interrupted"  # asked to stop before it could listen
        if outcome in {"killed", "stalled", "error", "out_of_memory"}:
            job.run_dir.append("lost", outcome=outcome, reason=reason)
        return Ended(job.run_dir, outcome, reason)

    def stop(self) -> None:
        """Ask every worker to save and stop."""
        if self._stop_at is None:
            self._stop_at = time.monotonic()
            for job in self._jobs.values():
                job.process.terminate()

    def kill(self) -> None:
        """End every worker now."""
        self._stop_at = time.monotonic()
        for job in self._jobs.values():
            self._end(job, "interrupted", "ended at once, on request")

    def close(self) -> None:
        """End what is left, and wait for it."""
        self.kill()
        while self._jobs:
            self.poll()
            time.sleep(0.01)


def _work(*args: object) -> None:
    from scalelab.launch.worker import work  # torch: loaded in the server, not in the parent

    work(*args)


def _time(
    report: Connection, threads: int | None, environ: dict[str, str], specs: list[str]
) -> None:
    from scalelab.train.pace import seconds_per_token  # likewise

    os.environ.update(environ)
    report.send(seconds_per_token(specs, threads))


def _visible(index: int) -> str:
    """The GPU's name for a child, within what this process itself may see."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    return shown.split(",")[index] if shown else str(index)
