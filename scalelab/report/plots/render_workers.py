"""Processes that draw, getting ready while the laws are still being fitted.

    with RenderWorkers() as workers:
        ...                       fit; meanwhile one of them imports matplotlib
        workers.draw(jobs)       every figure on the disk when it returns

Loading matplotlib and drawing eight figures twice costs more than a fit without bootstrap.
Where there is a second core and fork, another process does that, and forks for half of the figures once
matplotlib is loaded, so that it is loaded once; elsewhere, and for whatever they could not draw, this
one draws itself, so that the error is reported as usual.
"""

import os
import pickle
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Self

from scalelab.files import writing

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
    """A drawing process, or none."""

    def __init__(self) -> None:
        self._line: Any = None

    def __enter__(self) -> Self:
        if sys.platform != "linux" or (os.cpu_count() or 1) < 2:
            return self
        fork = get_context("fork")
        self._line, theirs = fork.Pipe()
        worker = fork.Process(target=_work, args=(theirs, self._line), daemon=True)
        with warnings.catch_warnings():
            # Python 3.12 warns of forking beside threads. These are the linear algebra's,
            # idle at this moment, and the other process only draws.
            warnings.simplefilter("ignore", DeprecationWarning)
            worker.start()
        theirs.close()
        return self

    def __exit__(self, *_: object) -> None:
        if self._line is not None:
            self._line.close()

    def draw(self, jobs: list[Job]) -> None:
        """Every figure drawn and written; what the workers could not draw is drawn here."""
        drawn: set[int] = set()
        if self._line is not None:
            try:
                self._line.send(jobs)
                drawn = self._line.recv()
            except (EOFError, OSError):
                pass  # it died; all of them are drawn here
        _render([job for k, job in enumerate(jobs) if k not in drawn])


def _render(jobs: list[Job]) -> None:
    if jobs:
        render = import_module("scalelab.report.plots.figure_file").render
        for job in jobs:
            render(*job)


def _work(line: Any, other: Any) -> None:
    """Draw what comes along the line, once; answer which of the jobs were drawn."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the fitting process answers for both
    os.nice(5)  # the fit goes first while it lasts
    other.close()  # or the line of a dead parent would never end
    try:
        render = import_module("scalelab.report.plots.figure_file").render
        jobs = dict(enumerate(line.recv()))
        second = dict(list(jobs.items())[1::2])
        share = _forked(render, second) if second else None
        drawn = _drawn(render, {k: job for k, job in jobs.items() if k not in second})
        line.send(drawn | (share() if share else set()))
    except (EOFError, BrokenPipeError):
        return  # no figure was asked for: the fit was refused or stopped
    except BaseException:  # whatever it was, it occurs again where it can be reported
        line.send(set())


def _drawn(render: Callable[..., Any], jobs: Mapping[int, Job]) -> set[int]:
    """Draw jobs until one fails, and return the numbers of those that are drawn."""
    done = set()
    try:
        for k, job in jobs.items():
            render(*job)
            done.add(k)
    except Exception:
        return done  # it occurs again where it can be reported
    return done


def _forked(render: Callable[..., Any], jobs: Mapping[int, Job]) -> Callable[[], set[int]]:
    """Draw jobs in a fork of this process; the function returned waits for it and says which are drawn."""
    theirs, ours = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with os.fdopen(ours, "wb") as end:
                pickle.dump(_drawn(render, jobs), end)
        finally:
            os._exit(0)
    os.close(ours)

    def wait() -> set[int]:
        with os.fdopen(theirs, "rb") as end:
            told = end.read()
        os.waitpid(child, 0)
        return pickle.loads(told) if told else set()  # a killed one says nothing

    return wait
