"""Processes that draw, getting ready while the laws are still being fitted.

    with RenderWorkers() as workers:
        ...                       fit; meanwhile one of them imports matplotlib
        workers.draw(jobs)       every figure on the disk when it returns

Loading matplotlib and drawing eight figures twice costs more than a fit without bootstrap.
Where there is a second core, another process does that (render_process.py); elsewhere, and for whatever
it did not draw, this one draws itself, so that the error is reported as usual.

That process is started afresh and not forked: the lock of a thread that is not copied stays locked in a
fork, and a fit may be called from a process with threads.
"""

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from scalelab.files import writing

Job = tuple[str, Any, list[Path]]
"""A figure's title, its numbers, and where it goes."""

PATIENCE_SECONDS = 120.0
"""How long a drawing process may be silent; eight figures take one or two seconds of a core."""
SINGLE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
"""The process forks once, and then no library may have threads in it."""


def figure_files(out: Path, name: str) -> list[Path]:
    """Return the files of a figure in the directory of a page."""
    return [out / f"{name}.png", out / f"{name}.svg"]


def remove_figure(out: Path, name: str) -> None:
    """Remove the files of a figure that an earlier page may have left. Raises RunError where that fails."""
    for path in figure_files(out, name):
        with writing(path):
            path.unlink(missing_ok=True)


def draw_figures(out: Path, data: Mapping[str, Any]) -> list[str]:
    """Draw figures into the directory of a page, each under its name, and return the names of those drawn.

    Args:
        out: The directory.
        data: The numbers of each figure; None where there are none, and then an earlier figure is removed.

    Raises:
        RunError: A file cannot be written or removed.
    """
    jobs = [(name, numbers, figure_files(out, name)) for name, numbers in data.items() if numbers is not None]
    for name in data:
        if data[name] is None:
            remove_figure(out, name)
    RenderWorkers().draw(jobs)
    return [name for name, _, _ in jobs]


class RenderWorkers:
    """A drawing process, or none."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None

    def __enter__(self) -> Self:
        if sys.platform != "linux" or (os.cpu_count() or 1) < 2:
            return self
        self._line, theirs = socket.socketpair()
        self._line.settimeout(PATIENCE_SECONDS)
        with theirs:
            code = (
                "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
                "from scalelab.report.plots.render_process import work; work(int(sys.argv[1]))"
            )
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", code, str(theirs.fileno()), json.dumps(sys.path)],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env=os.environ | SINGLE_THREAD,
                    start_new_session=True,  # Ctrl-C is answered by the fitting process, for both
                )
            except OSError:  # no more processes or memory
                self._end()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def draw(self, jobs: list[Job]) -> None:
        """Every figure drawn and written; what the workers did not draw is drawn here."""
        drawn = self._drawn_there(jobs)
        _render([job for k, job in enumerate(jobs) if k not in drawn])

    def _drawn_there(self, jobs: list[Job]) -> set[int]:
        """Have the process draw, and return the numbers of the jobs that it drew: none if it died or hangs."""
        if self._line is None:
            return set()
        try:
            sent = pickle.dumps(jobs)
        except (pickle.PicklingError, AttributeError, TypeError):
            return set()  # numbers of a kind that cannot be sent, such as a function: they are drawn here
        told = b""
        try:
            self._line.sendall(sent)
            self._line.shutdown(socket.SHUT_WR)
            while part := self._line.recv(4096):
                told += part
        except OSError:  # a TimeoutError is one
            told = b""
        self._end()  # or it might still write while this one does
        return set(json.loads(told)) if told else set()

    def _end(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


def _render(jobs: list[Job]) -> None:
    if jobs:
        render = import_module("scalelab.report.plots.figure_file").render
        for job in jobs:
            render(*job)
