"""The server that our processes are forked from, and what devices such a process finds.

The server imports torch once; a process forked from it starts in milliseconds instead of
seconds. It never touches a GPU. One command has one server, and what it has imported is settled
when it starts: whoever asks first names all that the command's processes will need.
"""

import multiprocessing
import signal
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext

from scalelab.errors import LaunchError

TRAINING = ("scalelab.launch.worker",)
"""What a process needs to train a run alone."""
LAUNCHED = ("scalelab.launch.rank",)
"""What the one process of a launched run needs."""
AMONG_MANY = (*LAUNCHED, "scalelab.train.parallel", "scalelab.train.sharded")
"""What a process of a launched run needs that has others beside it; seconds of imports."""


def fork_server(modules: tuple[str, ...]) -> ForkServerContext:
    """The context whose processes are forked from a server that has imported these modules.

    They are deaf to the keyboard from birth: its interrupt reaches the whole process group, and is
    for the command alone, which then asks them to stop. So this is called in the main thread.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # what a new process inherits
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, before)
    return context


def devices_here(context: ForkServerContext) -> list[dict]:
    """Which devices there are, asked in a process that ends again.

    Raises:
        LaunchError: No process could be forked.
    """
    from_child, to_parent = context.Pipe(duplex=False)
    process = context.Process(target=_probe, args=(to_parent,), daemon=True)
    process.start()
    to_parent.close()
    try:
        return from_child.recv()
    except EOFError:
        raise LaunchError(
            "the worker server did not start",
            where="the first process that it should have forked",
            fix="run `python -c 'import torch'` to see whether torch itself can start",
        ) from None
    finally:
        process.join()


def _probe(report: Connection) -> None:
    from scalelab.train.device import probe  # torch: loaded in the server, not in the parent

    report.send(probe())
