"""The processes of one launched run on this machine: started together, ended together.

A process that dies, stalls or loses another takes the run down at once, and all of them are
started again from outside, in a fresh rendezvous, from the newest checkpoint. That costs seconds.
How often is budgeted by progress: a run that comes a step further than before may try again, one
that does not gives up after `retries` more tries. What a person has to mend, and our own bugs,
are never tried again.
"""

import os
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from typing import Any

from scalelab.config import Document
from scalelab.errors import ConfigError, LaunchError
from scalelab.launch.base import RETRIED, Ended, LaunchConfig, Outcome
from scalelab.launch.forks import AMONG_MANY, LAUNCHED, devices_here, fork_server, start
from scalelab.sealed import Damaged, Format, typed
from scalelab.train.layout import Layout
from scalelab.train.rundir import RunDir
from scalelab.train.stability import Stability

GRACE_S = 60.0
POLL_S = 0.05


@dataclass
class _Attempt:
    """Processes that were started together."""

    processes: list[BaseProcess]
    reports: list[Connection]
    began: float = field(default_factory=time.monotonic)
    ended_by_us: tuple[Outcome, str] | None = None
    silent_s: float = 0.0
    """How long the log had not grown by then."""
    first_gone: int | None = None
    """The process that was found dead before we ended the others."""


class Ranks:
    """Runs one run directory to its end under one layout.

    Args:
        run_dir: Of the run; its spec stands there.
        layout: How it is spread.
        config: Time limits and retries.
        threads: CPU threads of each process; None leaves them, as on GPUs.
        gpus: The GPUs to use, one for each process; empty on the CPU.
        attempt: The number of our claim on the run's lease, which the processes write under.
    """

    def __init__(
        self,
        run_dir: RunDir,
        layout: Layout,
        config: LaunchConfig,
        threads: int | None,
        gpus: list[str],
        attempt: int | None = None,
    ):
        if gpus and len(gpus) < layout.devices:
            raise LaunchError(
                f"the layout asks for {layout.devices} GPUs, {len(gpus)} are here",
                where=f"layout {layout}",
                fix="plan for fewer devices, or start it on several machines with torchrun",
            )
        self.run_dir, self.layout, self.config = run_dir, layout, config
        self.threads, self.gpus = threads, gpus
        self.restarts = 0
        self._stop_at: float | None = None
        self._context = _server(layout)
        write_down(run_dir, layout, config, attempt)

    def to_the_end(self, tick: Callable[[], None]) -> Ended:
        """Start, watch, start again; `tick` is called many times a second."""
        fruitless, best = 0, -1
        while True:
            ended = self._attempt(tick)
            reached = self._reached()
            fruitless = 0 if reached > best else fruitless + 1
            best = max(best, reached)
            if ended.outcome not in RETRIED or self._stop_at is not None:
                return ended
            if fruitless > self.config.retries:
                return Ended(
                    ended.run_dir,
                    ended.outcome,
                    f"{ended.reason}; no further after {fruitless} more tries",
                )
            self.restarts += 1

    def stop(self) -> None:
        """Ask the processes to save and stop; a second time, end them."""
        if self._stop_at is None:
            self._stop_at = time.monotonic()
        else:
            self._stop_at -= GRACE_S

    def _attempt(self, tick: Callable[[], None]) -> Ended:
        attempt = self._start()
        size, grew, told = -1, time.monotonic(), False
        try:
            while any(p.is_alive() for p in attempt.processes):
                tick()
                time.sleep(POLL_S)
                now = time.monotonic()
                log = self.run_dir.log_path
                there = log.stat().st_size if log.exists() else 0
                if there != size:
                    size, grew = there, now
                if self._stop_at is not None and not told:
                    told = True
                    for process in attempt.processes:
                        if process.is_alive():
                            process.terminate()
                self._end_where_needed(attempt, now, now - grew)
        finally:
            self._kill(attempt)
        tick()
        return self._classify(attempt)

    def _end_where_needed(self, attempt: _Attempt, now: float, silent: float) -> None:
        gone = [i for i, p in enumerate(attempt.processes) if p.exitcode not in (None, 0)]
        if gone:
            attempt.first_gone, attempt.silent_s = gone[0], silent
            time.sleep(0.2)  # others may be telling why they fail
            self._kill(attempt)
        elif silent > self.config.heartbeat_timeout_s:
            attempt.ended_by_us = ("stalled", f"logged nothing for {silent:.0f} s")
            self._kill(attempt)
        elif self._stop_at is not None and now > self._stop_at + GRACE_S:
            attempt.ended_by_us = ("interrupted", f"did not stop within {GRACE_S:.0f} s")
            self._kill(attempt)

    def _start(self) -> _Attempt:
        n, port = self.layout.devices, _free_port()
        processes, reports = [], []
        for rank in range(n):
            environ = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(n),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
            if self.gpus:
                environ["CUDA_VISIBLE_DEVICES"] = self.gpus[rank]
            from_child, to_parent = self._context.Pipe(duplex=False)
            arguments = (str(self.run_dir.path), self.threads, environ, to_parent)
            process = self._context.Process(target=_work, args=arguments)
            start(process)
            to_parent.close()
            processes.append(process)
            reports.append(from_child)
        return _Attempt(processes, reports)

    def _kill(self, attempt: _Attempt) -> None:
        for process in attempt.processes:
            if process.is_alive():
                process.kill()
        for process in attempt.processes:
            process.join()

    def _classify(self, attempt: _Attempt) -> Ended:
        said = [_said(report) for report in attempt.reports]
        codes = [p.exitcode for p in attempt.processes]
        for report, process in zip(attempt.reports, attempt.processes, strict=True):
            report.close()
            process.close()
        if self.run_dir.is_done:
            return Ended(self.run_dir, "done")
        outcome, reason = self._worst(said, codes, attempt)
        if outcome == "killed" and self._stop_at is not None:
            outcome = "interrupted"
        if outcome in {"killed", "stalled", "error", "out_of_memory"}:
            self.run_dir.append("lost", outcome=outcome, reason=reason)
        return Ended(self.run_dir, outcome, reason)

    def _worst(
        self,
        said: list[tuple[Outcome, str | None]],
        codes: list[int | None],
        attempt: _Attempt,
    ) -> tuple[Outcome, str | None]:
        """Why the run ended: what somebody has to act on before what merely followed."""
        if attempt.ended_by_us is not None:
            return attempt.ended_by_us
        for kind in ("refused", "error", "out_of_memory"):
            for rank, (outcome, reason) in enumerate(said):
                if outcome == kind:
                    where = "" if kind == "refused" else f"process {rank}: "
                    return outcome, f"{where}{reason}"
        if (rank := attempt.first_gone) is not None and said[rank][0] is None:
            code = codes[rank] or 0
            if code == 1 and attempt.silent_s > 0.8 * self.config.heartbeat_timeout_s:
                stacks = self.run_dir.path / f"stalled-{rank}.txt"
                return "stalled", f"no step for {attempt.silent_s:.0f} s; what it was at: {stacks}"
            by = f"signal {-code}" if code < 0 else f"exit status {code}"
            return "killed", f"process {rank} ended by {by}"
        outcome, reason = next((s for s in said if s[0] is not None), ("killed", "no word"))
        return outcome, reason

    def _reached(self) -> int:
        """The last step that is in a checkpoint or a result, as the log tells."""
        events = self.run_dir.events()
        return max((e["step"] for e in events if e["event"] == "checkpoint"), default=-1)


@dataclass(frozen=True)
class LaunchRecord:
    """What every process of a launched run has to know: launch.json. JSON types."""

    layout: dict[str, Any]
    checkpoint_s: float | None
    """Seconds between checkpoints; None: as often as costs little."""
    stall_timeout_s: float
    """Seconds without a step after which a process ends itself."""
    stability: dict[str, Any]
    attempt: int | None = None
    """The number of the supervisor's claim on the run's lease, under which its processes write.
    None: there is no supervisor, and the first process claims the run itself."""


LAUNCH = Format(
    "launch record",
    LaunchRecord,
    schema=2,
    unsealed=1,
    error=LaunchError,
    fix="run the same `scalelab launch` again: it writes the file anew",
)


@dataclass(frozen=True)
class LaunchSettings:
    """The content of launch.json, ready for use."""

    layout: Layout
    checkpoint_s: float | None
    stall_timeout_s: float
    stability: Stability
    attempt: int | None


def write_down(
    run_dir: RunDir, layout: Layout, config: LaunchConfig, attempt: int | None = None
) -> None:
    """Write down what every process of the run has to know, on this machine or on another."""
    record = LaunchRecord(
        layout=asdict(layout),
        checkpoint_s=config.checkpoint_s,
        stall_timeout_s=config.heartbeat_timeout_s,
        stability=config.stability.model_dump(mode="json"),
        attempt=attempt,
    )
    LAUNCH.write(run_dir.launch_path, record)


def written_down(run_dir: RunDir) -> LaunchSettings:
    """What was written down for the processes of a run.

    Raises:
        LaunchError: Nothing was, or the file does not hold.
    """
    path = run_dir.launch_path
    try:
        record = LAUNCH.read(path)
    except FileNotFoundError:
        raise LaunchError(
            "there is no launched run here",
            where=str(path),
            fix="write it down first: scalelab launch PLAN --prepare",
        ) from None
    try:
        for name in ("checkpoint_s", "stall_timeout_s"):
            value = getattr(record, name)
            if value is not None and not 0 < value < float("inf"):
                raise Damaged(f"{name} is {value}")
        layout = typed(Layout, record.layout)
        stability = Stability.parse(Document(path.name, record.stability))
    except Damaged as damage:
        raise LAUNCH.refusal(path, damage) from None
    except (ConfigError, LaunchError) as error:
        raise LAUNCH.refusal(path, error.problem) from None
    return LaunchSettings(
        layout, record.checkpoint_s, record.stall_timeout_s, stability, record.attempt
    )


def _said(report: Connection) -> tuple[Outcome | None, str | None]:
    try:
        return report.recv() if report.poll() else (None, None)
    except (EOFError, OSError):
        return None, None


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _work(*args: object) -> None:
    from scalelab.launch.rank import work  # torch: loaded in the server, not in the parent

    work(*args)


def _server(layout: Layout) -> ForkServerContext:
    return fork_server(LAUNCHED if layout.devices == 1 else AMONG_MANY)


def gpus_here(layout: Layout) -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls each GPU; empty where there is none.

    Args:
        layout: Of the run to come: its processes are forked from the server that is asked.
    """
    devices = devices_here(_server(layout))
    if devices[0]["kind"] == "cpu":
        return []
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    return shown.split(",") if shown else [str(i) for i in range(len(devices))]
