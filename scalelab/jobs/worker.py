"""Inside a process of a job: call the function of its kind, say how it ended.

Two ways in. An executor on this machine forks the process (local.py). torchrun and schedulers call

    python -m scalelab.jobs.worker JOB_DIR

which tells its exit status (0 done, 130 stopped on request, 2 refused or held by another process,
1 otherwise) and writes the
same in full to $SCALELAB_REPORT-<rank>.json, where that is set. torchrun's own restarts are of no
use here: the new processes meet the keys of the old ones in the store they share and wait for ever
(pytorch#135712), so call it with --max-restarts 0.

A forked process leaves with its parent, whatever becomes of that: a thread waits on the parent's
end of a pipe and ends the process when it closes. It is deaf to the keyboard (forks.py): the driver
asks its workers to stop by SIGTERM.
"""

import faulthandler
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from scalelab.errors import ScalelabError
from scalelab.files import write_json, write_text, writing
from scalelab.jobs import KINDS
from scalelab.jobs.base import Outcome, Said
from scalelab.jobs.gangs import LOCAL_RANK, RANK, SIZE
from scalelab.jobs.record import JobRecord, written_down
from scalelab.leases import Taken
from scalelab.train.device import OutOfMemory, use_threads
from scalelab.train.rundir import RunDir

REPORT = "SCALELAB_REPORT"
STATUS = {"done": 0, "interrupted": 130, "refused": 2, "elsewhere": 2}
GONE = ("connection closed by peer", "connection reset", "broken pipe", "timed out", "timeout")
"""What a collective says when another process went away."""


@dataclass(frozen=True)
class Assignment:
    """What the function of a kind is given."""

    dir: RunDir
    """The job's directory. It is not claimed yet: the function takes its lease."""
    settings: Mapping[str, Any]
    """As the job was made with."""
    rank: int
    """The process's number among those of the job, from 0."""
    processes: int
    stop: Callable[[], bool]
    """Whether it is asked to save and stop."""

    @contextmanager
    def watchdog(self, seconds: float) -> Iterator[Callable[[], None]]:
        """End this process if what is yielded is not called every `seconds` from now on.

        The stacks of all threads are written to stalled-<rank>.txt before.
        """
        place = stacks_of(self.dir, self.rank)
        with writing(place), open(place, "w") as stacks:

            def alive() -> None:
                faulthandler.dump_traceback_later(seconds, exit=True, file=stacks)

            alive()
            try:
                yield alive
            finally:
                faulthandler.cancel_dump_traceback_later()
                place.unlink()


def stacks_of(run_dir: RunDir, rank: int) -> Path:
    """Where a process that stalled writes what it was at."""
    return run_dir.path / f"stalled-{rank}.txt"


def do(assignment: Assignment, record: JobRecord) -> Outcome:
    """Do a job in this process.

    Raises:
        Taken: Another process holds its lease, or took it over.
        ScalelabError: A person has to fix something first.
    """
    return KINDS[record.kind](assignment)


def told(assignment: Assignment, record: JobRecord) -> Said:
    """Do a job in this process, whatever happens on the way; a bug leaves its traceback."""
    try:
        return Said(do(assignment, record))
    except Taken as error:
        return Said("elsewhere", error.problem, error.where, error.fix)
    except ScalelabError as error:
        return Said("refused", error.problem, error.where, error.fix)
    except KeyboardInterrupt:
        raise
    except (MemoryError, OutOfMemory) as error:
        return Said("out_of_memory", _first_line(error))
    except BaseException as error:
        if assignment.processes > 1 and _peer_is_gone(error):
            return Said("killed", f"another process is gone: {_first_line(error)}")
        text = traceback.format_exc()
        alone = assignment.processes == 1
        name = "traceback.txt" if alone else f"traceback-{assignment.rank}.txt"
        with suppress(ScalelabError):  # a full disk: the last line is told all the same
            write_text(assignment.dir.path / name, text)
        return Said("error", text.strip().splitlines()[-1])


def work(path: str, environ: dict[str, str], threads: int | None, report: Connection) -> None:
    """The body of a process that an executor on this machine started: do its part, report, exit."""
    for name in (RANK, LOCAL_RANK, SIZE):
        os.environ.pop(name, None)  # they number another job's processes: our starter's own
    os.environ.update(environ)
    leave_with_parent()
    be_first_to_die()
    said = _in_directory(RunDir(Path(path)), threads)
    report.send(said)
    report.close()
    if said.outcome not in {"done", "interrupted"} and int(environ.get(SIZE, "1")) > 1:
        os._exit(1)  # threads of a broken process group would keep it alive
    if said.outcome == "error":
        sys.exit(1)


def _in_directory(run_dir: RunDir, threads: int | None) -> Said:
    asked_to_stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked_to_stop.set())
    try:
        record = written_down(run_dir)
    except ScalelabError as error:
        return Said("refused", error.problem, error.where, error.fix)
    rank, size = int(os.environ.get(RANK, "0")), int(os.environ.get(SIZE, "1"))
    if size != record.processes:
        return Said(
            "refused",
            f"{size} processes were started, and the job needs {record.processes}",
            str(run_dir.path),
            f"start {record.processes} together: torchrun --nproc-per-node {record.processes} "
            "--max-restarts 0 -m scalelab.jobs.worker DIR",
        )
    use_threads(threads or record.threads)
    return told(Assignment(run_dir, record.settings, rank, size, asked_to_stop.is_set), record)


def leave_with_parent() -> None:
    """End this process when its parent has ended, whatever became of that."""
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(os.EX_TEMPFAIL)

    threading.Thread(target=watch, daemon=True).start()


def be_first_to_die() -> None:
    """If the machine runs out of memory, let it end a worker and not the driver."""
    with suppress(OSError):  # not Linux, or not allowed: only the kernel's choice changes
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")


def _first_line(error: BaseException) -> str:
    return (f"{error}".splitlines() or [type(error).__name__])[0]


def _peer_is_gone(error: BaseException) -> bool:
    """Whether a collective failed because another process went away: not our bug."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in text for word in GONE)


def main(path: str) -> int:
    """The body of a process that torchrun or a scheduler started. Returns the exit status."""
    signal.signal(signal.SIGINT, lambda *_: signal.raise_signal(signal.SIGTERM))
    local = os.environ.get(LOCAL_RANK)
    if local is not None:  # one GPU for each process, within what this machine's may see
        shown = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = local if shown is None else shown.split(",")[int(local) % len(shown.split(","))]
        os.environ["CUDA_VISIBLE_DEVICES"] = names
    said = _in_directory(RunDir(Path(path)), None)
    if (place := os.environ.get(REPORT)) is not None:
        with suppress(ScalelabError):  # a full disk: the exit status tells as much
            write_json(Path(f"{place}-{os.environ.get(RANK, '0')}.json"), asdict(said))
    if said.outcome in {"refused", "elsewhere"}:
        print(f"error: {said.reason}\n  where: {said.where}\n  fix:   {said.fix}", file=sys.stderr)
    elif said.outcome not in STATUS:
        print(f"{said.outcome}: {said.reason}", file=sys.stderr)
    return STATUS.get(said.outcome, 1)


if __name__ == "__main__":
    status = main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # everything is written; torch's own threads may abort an orderly end
