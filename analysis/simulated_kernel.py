"""Whose turn it is: one task at a time, in the order of a virtual clock. The same seed gives the same run.

Units: seconds. Not here: files (simulated_server.py), machines and processes (simulated.py).
"""

import heapq
import random
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from scalelab.system import use

if TYPE_CHECKING:
    from simulated import Process


class Killed(BaseException):
    """This process was killed: nothing that it still does has an effect."""


class Task:
    """A thread of a simulated process, which runs only while it has the turn."""

    def __init__(self, process: "Process | None"):
        self.process = process
        self.turn = threading.Lock()
        self.turn.acquire()


class Kernel:
    """Gives the turn to one task at a time, in the order of the virtual clock."""

    def __init__(self, seed: int):
        self.now = 0.0
        self.random = random.Random(seed)
        self.errors: list[BaseException] = []
        """Errors that no process handled."""
        self._queue: list[tuple[float, int, Any]] = []
        self._n = 0
        self._main = self.current = Task(None)

    def at(self, seconds: float, what: "Task | Callable[[], None]") -> None:
        """Give the turn to a task, or call a function, at some moment."""
        self._n += 1
        heapq.heappush(self._queue, (max(seconds, self.now), self._n, what))

    def start(self, process: "Process", function: Callable[[], None]) -> None:
        """Run a function in a task of its own, from now on."""
        task = Task(process)
        process.tasks.append(task)

        def body() -> None:
            task.turn.acquire()
            self.current = task
            try:
                with use(process.system), suppress(Killed):
                    if not process.is_dead:
                        function()
            except BaseException as error:
                self.errors.append(error)
            process.tasks.remove(task)
            self._next().turn.release()

        threading.Thread(target=body, daemon=True).start()
        self.at(self.now, task)

    def sleep(self, seconds: float) -> None:
        """Let the others run until some seconds have passed, and while the process is paused."""
        task = self.current
        assert task.process is not None
        self.at(self.now + seconds, task)
        while True:
            following = self._next()
            if following is not task:
                following.turn.release()
                task.turn.acquire()
                self.current = task
            if task.process.is_dead or task.process.paused_until <= self.now:
                return
            self.at(task.process.paused_until, task)

    def _next(self) -> Task:
        while self._queue:
            self.now, _, what = heapq.heappop(self._queue)
            if not isinstance(what, Task):
                what()
            elif what.process is None or what in what.process.tasks:
                return what
        return self._main

    def run(self) -> None:
        """Run until nobody has anything left to do."""
        following = self._next()
        if following is not self._main:
            following.turn.release()
            self._main.turn.acquire()
