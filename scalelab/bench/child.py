"""A function in a process of its own: a crash, a hang or a fragmented memory of a device ends with it.

    child = ChildProcess("module:function", *arguments)      function(connection, *arguments)
    child.receive(ends)                                      what it sent, or ChildError

The process is started afresh, not forked, since a context on a GPU does not survive a fork. Its
environment is changed before anything is imported, so that torch sees the changed one. It ignores
SIGINT, which a terminal sends to all processes: whoever started it closes it.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

from scalelab.registry import resolved


class ChildError(Exception):
    """A process did not answer: why, in words."""

    def __init__(self, reason: str, *, is_late: bool):
        super().__init__(reason)
        self.reason, self.is_late = reason, is_late


class ChildProcess:
    """One process that runs one function.

    Args:
        function: "module:attribute" of the function.
        arguments: What it is called with, after its connection; they are pickled.
        environ: Changes of the environment, by name.
    """

    def __init__(self, function: str, *arguments: Any, environ: Mapping[str, str] | None = None):
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        arguments = (theirs, function, dict(environ or {}), arguments)
        self._process = context.Process(target=_run, args=arguments)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, value: object) -> None:
        """Send a value to the function. Raises ChildError if the process has ended."""
        try:
            self._connection.send(value)
        except OSError as error:
            raise self._ended() from error

    def receive(self, ends: float) -> Any:
        """Return the next value that the function sent.

        Args:
            ends: Time limit on the clock of time.monotonic, seconds.

        Raises:
            ChildError: The process has ended, or the time limit has passed.
        """
        begun = time.monotonic()
        if not self._connection.poll(max(0.0, ends - begun)):
            raise ChildError(f"it did not end within {max(0.0, ends - begun):.0f} s", is_late=True)
        try:
            return self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._ended() from error

    def _ended(self) -> ChildError:
        self._process.join(10)
        code = self._process.exitcode
        how = f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"
        return ChildError(f"its process ended with {how}", is_late=False)

    def close(self) -> None:
        """End the process, if it is still there."""
        self._connection.close()
        if self._process.is_alive():
            self._process.kill()
        self._process.join()


def _run(connection: Connection, function: str, environ: dict[str, str], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(environ)
    try:
        resolved(function)(connection, *arguments)
    except (BrokenPipeError, EOFError):
        os._exit(1)  # the process that started this one has ended
