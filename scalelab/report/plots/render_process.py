"""The process that draws figures for another one (render_workers.py), and forks for half of them.

It gets the jobs, pickled, along a socket that the other one then shuts for writing, and answers with the
numbers of those drawn, as a JSON list.
"""

import json
import os
import pickle
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress

from scalelab.report.plots.figure_file import render
from scalelab.report.plots.render_workers import Job


def work(handle: int) -> None:
    """Draw what comes along a socket, once; answer which of the jobs were drawn.

    Args:
        handle: The file descriptor of the socket.
    """
    os.nice(5)  # the fit goes first while it lasts
    with socket.socket(fileno=handle) as line:
        sent = b"".join(iter(lambda: line.recv(1 << 20), b""))
        if not sent:
            return  # no figure was asked for: the fit was refused or stopped
        try:
            jobs: dict[int, Job] = dict(enumerate(pickle.loads(sent)))
        except Exception:
            return  # numbers of a type that only the other one can import: it draws all of them itself
        second = dict(list(jobs.items())[1::2])
        share = _forked(second) if second else None
        drawn = _drawn({k: job for k, job in jobs.items() if k not in second})
        drawn |= share() if share else set()
        with suppress(OSError):  # the other one is gone
            line.sendall(json.dumps(sorted(drawn)).encode())


def _drawn(jobs: Mapping[int, Job]) -> set[int]:
    """Draw jobs until one fails, and return the numbers of those that are drawn."""
    done = set()
    try:
        for k, job in jobs.items():
            render(*job)
            done.add(k)
    except Exception:
        return done  # it occurs again where it can be reported
    return done


def _forked(jobs: Mapping[int, Job]) -> Callable[[], set[int]]:
    """Draw jobs in a fork of this process; the function returned waits for it and says which are drawn."""
    theirs, ours = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with os.fdopen(ours, "w") as end:
                json.dump(sorted(_drawn(jobs)), end)
        finally:
            os._exit(0)
    os.close(ours)

    def wait() -> set[int]:
        with os.fdopen(theirs) as end:
            told = end.read()
        os.waitpid(child, 0)
        return set(json.loads(told)) if told else set()  # a killed one says nothing

    return wait
