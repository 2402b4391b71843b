"""Further processes that do parts of the work of one: a module of the package, and pipes to and from it.

A process is a Python of its own, not a copy of this one, so neither the memory nor the threads of this one are
duplicated. It is to end when its input does, also where this process was killed. It is in a session of its own, so
that Ctrl-C reaches only the one that it works for. One that cannot be started, or ends early, costs time alone: the
caller does its part.

Not here: what is sent (corpus/sketch_workers.py, curate/shard_work.py).
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
"""Directory from which the package is imported."""
ChildProcess = subprocess.Popen[bytes]


def start_children(module: str, n: int, **environ: str) -> list[ChildProcess]:
    """Start processes of a module, and return those that could be started.

    Args:
        module: Dotted name; it reads requests from its input and writes replies to its output.
        n: Number of processes.
        environ: Environment variables beyond those of this process.
    """
    return [process for _ in range(n) if (process := _start(module, environ)) is not None]


def end_children(processes: Sequence[ChildProcess]) -> None:
    """End processes whatever they do, and wait for them."""
    for process in processes:
        process.kill()
    for process in processes:
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):
                pipe and pipe.close()
        process.wait()


def _start(module: str, environ: dict[str, str]) -> ChildProcess | None:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        return subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | environ,
            start_new_session=True,
        )
    except OSError:
        return None
