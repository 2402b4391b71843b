"""Processes that draw, getting ready while the laws are still being fitted.

    with RenderWorkers() as workers:
        ...                       fit; meanwhile they import matplotlib
        workers.draw(jobs)       every figure on the disk when it returns

Loading matplotlib and drawing eight figures twice costs more than a fit without bootstrap.
Where there is a second core and fork, other processes share that; elsewhere, and for whatever
they could not draw, this one draws itself, so that the error is reported as usual.
"""

import os
import signal
import sys
import warnings
from collections.abc import Mapping
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Self

from scalelab.files import writing

PAINTERS = 2
Job = tuple[str, Any, list[Path]]
"""A figure's title, its numbers, and where it goes."""


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
    """A few drawing processes, or none."""

    def __init__(self) -> None:
        self._lines: list[Any] = []

    def __enter__(self) -> Self:
        if sys.platform != "linux" or (os.cpu_count() or 1) < 2:
            return self
        fork = get_context("fork")
        for _ in range(PAINTERS):
            ours, theirs = fork.Pipe()
            worker = fork.Process(target=_work, args=(theirs, [*self._lines, ours]), daemon=True)
            with warnings.catch_warnings():
                # Python 3.12 warns of forking beside threads. These are the linear algebra's,
                # idle at this moment, and the other process only draws.
                warnings.simplefilter("ignore", DeprecationWarning)
                worker.start()
            theirs.close()
            self._lines.append(ours)
        return self

    def __exit__(self, *_: object) -> None:
        for line in self._lines:
            line.close()

    def draw(self, jobs: list[Job]) -> None:
        """Every figure drawn and written; what a painter could not draw is drawn here."""
        asked = []
        for k, line in enumerate(self._lines):
            mine = jobs[k :: len(self._lines)]
            try:
                line.send(mine)
            except OSError:
                continue  # it died; its share stays here
            asked.append((line, mine))
        titles = {job[0] for _, mine in asked for job in mine}
        _render([job for job in jobs if job[0] not in titles])
        for line, mine in asked:
            try:
                done = line.recv()
            except (EOFError, OSError):
                done = 0
            _render(mine[done:])


def _render(jobs: list[Job]) -> None:
    if jobs:
        render = import_module("scalelab.report.plots.figure_file").render
        for job in jobs:
            render(*job)


def _work(line: Any, others: list[Any]) -> None:
    """Draw what comes along the line, once; answer how many were drawn."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the fitting process answers for both
    os.nice(5)  # the fit goes first while it lasts
    for other in others:
        other.close()  # or the lines of dead parents would never end
    done = 0
    try:
        render = import_module("scalelab.report.plots.figure_file").render
        for job in line.recv():
            render(*job)
            done += 1
        line.send(done)
    except (EOFError, BrokenPipeError):
        return  # no figure was asked for: the fit was refused or stopped
    except BaseException:  # whatever it was, it occurs again where it can be reported
        line.send(done)
