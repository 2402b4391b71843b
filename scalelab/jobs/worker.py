"""Inside a process of a job: call the function of its kind, say how it ended.

Two ways in. An executor on this machine forks the process (local.py). torchrun and schedulers call

    python -m scalelab.jobs.worker JOB_DIR

which records its exit status (0 done, 130 stopped on request, 2 refused or held by another process,
1 otherwise) and writes the
same in full to $SCALELAB_REPORT-<rank>.json, where that is set. A file at $SCALELAB_STOP asks it to save and
stop, as SIGTERM does. torchrun's own restarts are of no
use here: the new processes meet the keys of the old ones in the store they share and wait for ever
(pytorch#135712), so call it with --max-restarts 0.

A forked process leaves with its parent, whatever becomes of that: a thread waits on the parent's
end of a pipe and ends the process when it closes. It ignores the keyboard
(forkserver.py): the driver asks its workers to stop by SIGTERM.
"""

import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from scalelab.errors import LaunchError, ScalelabError
from scalelab.files import write_json, write_text, writing
from scalelab.hardware.device import OutOfMemory, use_threads
from scalelab.hardware.local_gpu import use_own_gpu
from scalelab.hardware.sharing import limit_memory
from scalelab.jobs import KINDS
from scalelab.jobs.base import Outcome, ProcessReport
from scalelab.jobs.executors.process_group import LOCAL_RANK, RANK, SIZE
from scalelab.jobs.record import JobRecord, read_record
from scalelab.leases import LeaseTaken
from scalelab.screen import echo
from scalelab.train.run_directory import RunDir

REPORT = "SCALELAB_REPORT"
STOP = "SCALELAB_STOP"
"""Path of a file whose appearance asks the processes to save and stop, for starters that cannot signal them."""
LOOK_S = 1.0
"""Seconds between two looks for that file, and for the parent of a process of torchrun."""
TORCHRUN = "TORCHELASTIC_RUN_ID"
"""Environment variable of a process that torchrun started."""
STATUS = {"done": 0, "interrupted": 130, "refused": 2, "elsewhere": 2}
GONE = ("connection closed by peer", "connection reset", "broken pipe", "timed out", "timeout")
"""Error texts of a collective operation after another process has gone."""


@dataclass(frozen=True)
class Assignment:
    """Arguments of the function that runs a kind of job."""

    dir: RunDir
    """The job's directory. It is not claimed yet: the function takes its lease."""
    settings: Mapping[str, Any]
    """Settings of the job."""
    rank: int
    """The process's number among those of the job, from 0."""
    processes: int
    stop: Callable[[], bool]
    """Returns True once the process should save and stop."""

    @contextmanager
    def watchdog(self, seconds: float, first_s: float) -> Iterator[Callable[[float], None]]:
        """End this process if what is yielded is not called every `seconds`, or as it allows.

        What is yielded takes the least time that it allows until its next call, seconds. Until the first
        one it is `first_s`. The stacks of all threads are written to stalled-<rank>.txt before.
        """
        place = stacks_of(self.dir, self.rank)
        with writing(place), open(place, "w") as stacks:

            def heartbeat(at_least_s: float = 0.0) -> None:
                faulthandler.dump_traceback_later(max(seconds, at_least_s), exit=True, file=stacks)

            heartbeat(first_s)
            try:
                yield heartbeat
            finally:
                faulthandler.cancel_dump_traceback_later()
                place.unlink(missing_ok=True)  # an earlier attempt that ended late may have removed it


def stacks_of(run_dir: RunDir, rank: int) -> Path:
    """Path of the stack traces that a stalled process writes."""
    return run_dir.path / f"stalled-{rank}.txt"


def run_kind(assignment: Assignment, record: JobRecord) -> Outcome:
    """Run a job in this process.

    Raises:
        LeaseTaken: Another process holds its lease, or took it over.
        ScalelabError: A person has to fix something first.
    """
    return KINDS[record.kind](assignment)


def run_reported(
    assignment: Assignment, record: JobRecord, environ: Mapping[str, str] | None = None
) -> ProcessReport:
    """Do a job in this process, whatever happens on the way; a bug leaves its traceback.

    Args:
        assignment: Arguments of the job's function.
        record: The job.
        environ: Environment variables that this process was given, with its share of a GPU. To limit its
            memory starts the GPU, which may fail.
    """
    try:
        limit_memory(environ or {})
        return ProcessReport(run_kind(assignment, record))
    except LeaseTaken as error:
        return ProcessReport("elsewhere", error.problem, error.where, error.fix)
    except ScalelabError as error:
        return ProcessReport("refused", error.problem, error.where, error.fix)
    except KeyboardInterrupt:
        raise
    except (MemoryError, OutOfMemory) as error:
        return ProcessReport("out_of_memory", _first_line(error))
    except BaseException as error:
        if assignment.processes > 1 and _peer_is_gone(error):
            return ProcessReport("killed", f"another process is gone: {_first_line(error)}")
        text = traceback.format_exc()
        alone = assignment.processes == 1
        name = "traceback.txt" if alone else f"traceback-{assignment.rank}.txt"
        with suppress(ScalelabError):  # a full disk: the last line is reported all the same
            write_text(assignment.dir.path / name, text)
        return ProcessReport("error", text.strip().splitlines()[-1])


def work(path: str, environ: dict[str, str], threads: int | None, report: Connection) -> None:
    """Run one process of a job on behalf of an executor on this machine, report, and exit.

    Args:
        path: The job's directory.
        environ: Environment variables to set, such as the ranks of a process group.
        threads: Number of CPU threads; None keeps the library's default.
        report: Connection on which the ProcessReport is sent.
    """
    for name in (RANK, LOCAL_RANK, SIZE):
        os.environ.pop(name, None)  # they number another job's processes: our starter's own
    os.environ.update(environ)
    leave_with_parent()
    be_first_to_die()
    reported = _in_directory(RunDir(Path(path)), threads, environ)
    report.send(reported)
    report.close()
    if reported.outcome not in {"done", "interrupted"} and int(environ.get(SIZE, "1")) > 1:
        os._exit(1)  # threads of a broken process group would keep it alive
    if reported.outcome == "error":
        sys.exit(1)


def run_here(path: str, threads: int | None, environ: Mapping[str, str]) -> ProcessReport:
    """Run a job of one process in this one, which another program started and goes on using.

    Args:
        path: The job's directory.
        threads: Number of CPU threads; None keeps the library's default.
        environ: Environment variables that the job needs, such as its share of a GPU.
    """
    for name in (RANK, LOCAL_RANK, SIZE):
        os.environ.pop(name, None)
    os.environ.update(environ)
    return _in_directory(RunDir(Path(path)), threads, environ)


def _in_directory(
    run_dir: RunDir, threads: int | None, environ: Mapping[str, str] | None = None
) -> ProcessReport:
    asked_to_stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked_to_stop.set())
    try:
        record = read_record(run_dir)
    except ScalelabError as error:
        return ProcessReport("refused", error.problem, error.where, error.fix)
    rank, size = int(os.environ.get(RANK, "0")), int(os.environ.get(SIZE, "1"))
    if size != record.processes:
        return ProcessReport(
            "refused",
            f"{size} processes were started, and the job needs {record.processes}",
            str(run_dir.path),
            f"start {record.processes} together: torchrun --nproc-per-node {record.processes} "
            "--max-restarts 0 -m scalelab.jobs.worker DIR",
        )
    use_threads(threads or record.threads)
    stop = _stop_request(asked_to_stop)
    assignment = Assignment(run_dir, record.settings, rank, size, stop)
    return run_reported(assignment, record, environ)


def _stop_request(signalled: threading.Event) -> Callable[[], bool]:
    """Return a function that says whether a signal or the file of $SCALELAB_STOP asks to stop."""
    path, looked = os.environ.get(STOP), time.monotonic()
    if path is None:
        return signalled.is_set

    def stop() -> bool:
        nonlocal looked
        if not signalled.is_set() and time.monotonic() - looked >= LOOK_S:
            looked = time.monotonic()
            if os.path.exists(path):
                signalled.set()
        return signalled.is_set()

    return stop


def leave_with_parent() -> None:
    """End this process when its parent has ended, whatever became of that."""
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(os.EX_TEMPFAIL)

    threading.Thread(target=watch, daemon=True).start()


def leave_with_torchrun() -> None:
    """End this process when the torchrun that started it has ended.

    Its processes have sessions of their own, so one that is killed (its gang broke, its time is over) leaves them
    behind with their devices where the scheduler does not track processes by cgroup.
    """
    if TORCHRUN not in os.environ:
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_S)
        os._exit(os.EX_TEMPFAIL)

    threading.Thread(target=watch, daemon=True).start()


def be_first_to_die() -> None:
    """If the machine runs out of memory, let it end a worker and not the driver."""
    with suppress(OSError):  # not Linux, or not allowed: only the kernel's choice changes
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")


def _first_line(error: BaseException) -> str:
    return (f"{error}".splitlines() or [type(error).__name__])[0]


def _peer_is_gone(error: BaseException) -> bool:
    """True if a collective operation failed because another process has gone."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in text for word in GONE)


def main(path: str) -> int:
    """The body of a process that torchrun or a scheduler started. Returns the exit status."""
    signal.signal(signal.SIGINT, lambda *_: signal.raise_signal(signal.SIGTERM))
    leave_with_torchrun()
    try:
        use_own_gpu()
        reported = _in_directory(RunDir(Path(path)), None)
    except LaunchError as error:
        reported = ProcessReport("refused", error.problem, error.where, error.fix)
    if (place := os.environ.get(REPORT)) is not None:
        with suppress(ScalelabError):  # a full disk: the exit status is enough
            write_json(Path(f"{place}-{os.environ.get(RANK, '0')}.json"), asdict(reported))
    if reported.outcome in {"refused", "elsewhere"}:
        echo(f"error: {reported.reason}\n  where: {reported.where}\n  fix:   {reported.fix}", file=sys.stderr)
    elif reported.outcome not in STATUS:
        echo(f"{reported.outcome}: {reported.reason}", file=sys.stderr)
    if reported.outcome == "interrupted" and STOP in os.environ:
        return (
            0  # whoever asked reads the report; another status would end the other processes while they save
        )
    return STATUS.get(reported.outcome, 1)


if __name__ == "__main__":
    status = main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # everything is written; torch's own threads may abort an orderly end
