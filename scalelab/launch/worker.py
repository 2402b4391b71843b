"""Inside a worker process: take the lease of a run, train it, say how it ended.

The process leaves with its parent, whatever becomes of that: a thread waits on the parent's
end of a pipe and ends the process when it closes. It is deaf to the keyboard (forks.py): the
parent asks its workers to stop by SIGTERM.
"""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path

from scalelab.errors import ScalelabError
from scalelab.files import write_text
from scalelab.launch.base import Outcome
from scalelab.leases import Taken
from scalelab.train.device import OutOfMemory, use_threads
from scalelab.train.loop import train
from scalelab.train.rundir import RunDir


def work(path: str, threads: int | None, environ: dict[str, str], report: Connection) -> None:
    """The body of a worker process: train one run directory, report, exit."""
    os.environ.update(environ)
    stop = begin(threads)
    run_dir = RunDir(Path(path))
    end(report, run_dir.path, lambda: outcome_of(run_dir, stop))


def begin(threads: int | None) -> Callable[[], bool]:
    """Make this process a worker; the answer tells whether it was asked to stop."""
    leave_with_parent()
    asked_to_stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked_to_stop.set())
    be_first_to_die()
    use_threads(threads)
    return asked_to_stop.is_set


def end(report: Connection, path: Path, do: Callable[[], Outcome]) -> None:
    """Do the work of the directory `path` and report how it ended; our own bug ends the process."""
    try:
        report.send((do(), None))
    except ScalelabError as error:
        report.send(("refused", str(error)))
    except (MemoryError, OutOfMemory) as error:
        report.send(("out_of_memory", f"{error}".splitlines()[0]))
    except BaseException:
        # The driver goes on with the others and shows where this is written.
        text = traceback.format_exc()
        write_text(path / "traceback.txt", text)
        report.send(("error", text.strip().splitlines()[-1]))
        sys.exit(1)


def outcome_of(run_dir: RunDir, stop: Callable[[], bool]) -> Outcome:
    """Train a run under its lease. "elsewhere" where another process holds it, or took it over."""
    try:
        with run_dir.claimed() as (ours, _):
            return "interrupted" if train(ours, stop) is None else "done"
    except Taken:
        return "elsewhere"


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
