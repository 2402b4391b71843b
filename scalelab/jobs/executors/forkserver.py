"""The server that our processes are forked from, and what devices such a process finds.

The server imports torch once; a process forked from it starts in milliseconds instead of
seconds. It never touches a GPU. One command has one server, and what it has imported is settled
when it starts: whoever asks first names all that the command's processes will need.
"""

import multiprocessing
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess

from scalelab.errors import LaunchError
from scalelab.hardware.openmp import spin_briefly


def fork_server(modules: Sequence[str]) -> ForkServerContext:
    """The context whose processes are forked from a server that has imported these modules.

    They are deaf to the keyboard from birth: its interrupt reaches the whole process group, and is
    for the command alone, which then asks them to stop. So this is called in the main thread.
    """
    spin_briefly()  # read when the server loads torch
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    _ensure_running()
    return context


def _ensure_running() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # what a new process inherits
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, before)


def start(process: BaseProcess) -> None:
    """Start a process of such a context, also where its server was killed a moment ago.

    Raises:
        LaunchError: The server ends again and again.
    """
    for wait_s in (0.05, 0.2, 1.0, None):
        try:
            _ensure_running()  # multiprocessing would start it too, but not deaf to the keyboard
            process.start()
            return
        except (EOFError, ConnectionError, FileNotFoundError) as error:
            if wait_s is None:
                raise LaunchError(
                    f"the server that processes are forked from has ended: {error!r}",
                    where="the last of four tries to start a process",
                    fix="see what ends it (the system's log names what ran out of memory), then "
                    "run the same command again",
                ) from error
            time.sleep(wait_s)


def devices_here(context: ForkServerContext) -> list[dict]:
    """Which devices there are, asked in a process that ends again.

    Raises:
        LaunchError: No process could be forked.
    """
    from_child, to_parent = context.Pipe(duplex=False)
    process = context.Process(target=_probe, args=(to_parent,), daemon=True)
    start(process)
    to_parent.close()
    try:
        return from_child.recv()
    except (EOFError, ConnectionError):
        raise LaunchError(
            "the worker server did not start",
            where="the first process that it should have forked",
            fix="run `python -c 'import torch'` to see whether torch itself can start",
        ) from None
    finally:
        process.join()


def _probe(report: Connection) -> None:
    from scalelab.hardware.device import probe  # torch: loaded in the server, not in the parent

    with suppress(OSError):  # the command that asked was killed
        report.send(probe())
