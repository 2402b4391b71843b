"""Several machines that share one directory, simulated in one process: a virtual clock, a file server, faults.

    Kernel     whose turn it is: one task at a time, in the order of a virtual clock (simulated_kernel.py)
    Server     the files, with every state that they have had (simulated_server.py)
    Host       a machine: its clock's error, how old the states are that it may see
    Process    what can be paused, killed and delayed between any two operations
    SimulatedSystem   what production code sees of it (scalelab/system.py)

Every operation on a file takes some virtual milliseconds, has its effect at one moment on the server, and
is a point at which its process can be paused or killed, before and after. The same seed gives the same run.

What a host sees of the others' changes may be up to `stale_s` old, as through an NFS client's cache. After
a change of its own in a directory it sees all names there as they are.

Units: seconds, bytes. Not here: a sweep on such machines (simulated_sweep.py).
"""

import errno
import io
import math
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simulated_kernel import Kernel, Killed, Task
from simulated_server import EPOCH, Server, State

from scalelab.system import System


@dataclass
class Host:
    """A machine."""

    name: str
    skew_s: float = 0.0
    """Error of its clock."""
    stale_s: float = 0.0
    """How old the states may be that it sees."""
    reorders: bool = False
    """Whether a directory's names come in any order."""
    offline: list[tuple[float, float]] = field(default_factory=list)
    """When it does not reach the server: operations wait."""
    processes: dict[int, "Process"] = field(default_factory=dict)
    cache: dict[str, tuple[float, float]] = field(default_factory=dict)
    """By name: the moment whose state is seen, and until when."""
    changed: dict[str, float] = field(default_factory=dict)
    """When each directory was last changed from here."""


@dataclass
class Process:
    """A process: where it runs, and what will happen to it."""

    kernel: Kernel
    server: Server
    host: Host
    name: str
    faults: dict[int, tuple[str, float]] = field(default_factory=dict)
    """By number of operation: kind and seconds. Kinds: kill, kill_after, tear, pause, late, lost_reply."""
    final_faults: dict[int, tuple[str, float]] = field(default_factory=dict)
    """Likewise, by number of operation since it began to write the result."""
    on_pause: Callable[["Process"], None] = lambda process: None
    """Called when the process is paused."""
    lost_renewals: tuple[int, int, bool] = (0, 0, False)
    """First renewal that is lost, the first that is not any more, and whether an error says so."""
    tasks: list[Task] = field(default_factory=list)
    is_dead: bool = False
    paused_until: float = 0.0
    asked_to_stop: bool = False
    n_operations: int = 0
    n_renewals: int = 0
    n_final: int = 0
    happened: list[str] = field(default_factory=list)
    died: float = math.inf

    def __post_init__(self) -> None:
        self.pid = 1000 + len(self.host.processes)
        self.started = int(self.kernel.now * 100) + 1
        self.host.processes[self.pid] = self
        self.system = SimulatedSystem(self)

    def kill(self) -> None:
        """End it as signal 9 does."""
        if not self.is_dead:
            self.is_dead, self.died = True, self.kernel.now
            for task in self.tasks:
                if task is not self.kernel.current:
                    self.kernel.at(self.kernel.now, task)

    def pause(self, seconds: float) -> None:
        """Stop all its threads for some time."""
        self.paused_until = max(self.paused_until, self.kernel.now + seconds)
        self.on_pause(self)


class _Writing:
    """A file that is being written: its content reaches the server when it is flushed or closed."""

    def __init__(self, system: "SimulatedSystem", path: Path):
        self._system, self._path, self._is_clean = system, path, False
        self._parts: list[bytes] = []

    def write(self, data: str | bytes) -> None:
        self._parts.append(data.encode() if isinstance(data, str) else data)
        self._is_clean = False

    def save(self) -> None:
        if not self._is_clean:
            self._system.write(self._path, b"".join(self._parts))
            self._is_clean = True

    def __enter__(self) -> "_Writing":
        return self

    def __exit__(self, *_: object) -> None:
        self.save()


class SimulatedSystem(System):
    """What one process sees of its host and of the server."""

    def __init__(self, process: Process):
        self.process, self.kernel = process, process.kernel
        self.server, self.node = process.server, process.host

    # Clock and processes

    def time(self) -> float:
        return EPOCH + self.kernel.now + self.node.skew_s

    def monotonic(self) -> float:
        return self.kernel.now

    def sleep(self, seconds: float) -> None:
        self._wait(seconds)

    def wait(self, event: threading.Event, seconds: float) -> bool:
        if not event.is_set():
            self._wait(seconds)
        return event.is_set()

    def spawn(self, target: Callable[[], None], name: str) -> None:
        self.kernel.start(self.process, target)

    def pid(self) -> int:
        return self.process.pid

    def host(self) -> str:
        return self.node.name

    def machine(self) -> str:
        return self.node.name

    def process_start(self, pid: int) -> int | None:
        found = self.node.processes.get(pid)
        return None if found is None or found.is_dead else found.started

    def _wait(self, seconds: float) -> None:
        if self.process.is_dead:
            raise Killed
        self.kernel.sleep(seconds)
        if self.process.is_dead:
            raise Killed

    # Operations: each has its effect at one moment

    def _do(
        self,
        path: Path,
        effect: Callable[[], Any],
        *,
        writes: bool = False,
        torn: Callable[[], Any] | None = None,
        again: OSError | None = None,
    ) -> Any:
        process, kernel = self.process, self.kernel
        process.n_operations += 1
        if process.n_final or (writes and "result" in path.name):
            process.n_final += 1
        kind, seconds = process.faults.get(process.n_operations, ("", 0.0))
        kind, seconds = process.final_faults.get(process.n_final, (kind, seconds))
        self._wait(kernel.random.uniform(0.0, 0.02))
        for begin, end in self.node.offline:
            if begin <= kernel.now < end:
                self._wait(end - kernel.now)
        if kind:
            process.happened.append(kind)
        if kind == "pause":
            process.pause(seconds)
            self._wait(0.0)
        if kind == "kill" or (kind == "tear" and torn is not None):
            if kind == "tear":
                torn()
            process.kill()
            raise Killed
        if kind == "late" and writes:
            return self._late(effect, seconds)
        value = effect()
        if kind == "kill_after":
            process.kill()
            raise Killed
        if kind == "lost_reply" and writes:
            # The client asks once more, or gives up.
            raise (
                again
                if again and kernel.random.random() < 0.7
                else OSError(errno.EIO, os.strerror(errno.EIO))
            )
        return value

    def _late(self, effect: Callable[[], Any], seconds: float) -> Any:
        """The request is on its way for long, and arrives even if its process is gone by then."""
        came: list[Any] = []

        def arrive() -> None:
            try:
                came.append((effect(), None))
            except OSError as error:
                came.append((None, error))

        self.kernel.at(self.kernel.now + seconds, arrive)
        self._wait(seconds + 0.01)
        value, error = came[0]
        if error is not None:
            raise error
        return value

    # What is seen

    def _moment(self, path: Path) -> float:
        """Return the moment whose state of a name is seen."""
        now, host = self.kernel.now, self.node
        if host.stale_s == 0.0:
            return now
        name = str(path)
        seen, expires = host.cache.get(name, (-1.0, -1.0))
        if expires < now:
            seen = now
            host.cache[name] = (now, now + host.stale_s * self.kernel.random.choice((0.0, 0.5, 1.0, 1.0)))
        return max(seen, host.changed.get(name.rpartition("/")[0], -1.0))

    def _changed(self, path: Path) -> None:
        """After a change of its own a host sees all names of the directory."""
        self.node.cache.pop(str(path), None)
        self.node.changed[str(path.parent)] = self.kernel.now

    def _found(self, path: Path) -> State:
        state = self.server.state(path, self._moment(path))
        if state is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return state

    def listdir(self, path: Path) -> list[str]:
        def effect() -> list[str]:
            known = self.server.known(path)
            names = [n.rpartition("/")[2] for n in known if self._sees(Path(n))]
            if not names and not known:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            if self.node.reorders:
                self.kernel.random.shuffle(names)
            return names

        return self._do(path, effect)

    def _sees(self, path: Path) -> bool:
        return self.server.state(path, self._moment(path)) is not None

    def exists(self, path: Path) -> bool:
        return self._do(path, lambda: self._sees(path))

    def mtime(self, path: Path) -> float:
        def effect() -> float:
            found = self._found(
                path
            )  # the name is seen anew after a change in the directory; its times are not
            states = [s for s in self.server.names[str(path)] if s.file == found.file]
            at = self.node.cache.get(str(path), (self.kernel.now, 0.0))[0]
            return next((s.mtime for s in reversed(states) if s.since <= at), states[0].mtime)

        return self._do(path, effect)

    def size(self, path: Path) -> int:
        return self._do(path, lambda: len(self.server.data[self._found(path).file]))

    def open_read(self, path: Path) -> io.BytesIO:
        return io.BytesIO(self._do(path, lambda: self.server.data[self._found(path).file]))

    def is_same(self, path: Path, other: Path) -> bool:
        return self._do(path, lambda: self._found(path).file == self._found(other).file)

    # What is changed

    def touch(self, path: Path) -> None:
        def effect() -> None:
            self.server.need_room()
            state = self.server.state(path)
            self.server.put(path, self.server.new(b"") if state is None else state.file)
            self._changed(path)

        self._do(path, effect, writes=True)

    def renew(self, path: Path) -> None:
        process = self.process
        process.n_renewals += 1
        first, last, is_said = process.lost_renewals

        def effect() -> None:
            if first <= process.n_renewals < last:
                process.happened.append("lost_renewal")
                if is_said:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                return
            state = self.server.state(path)
            if state is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            self.server.put(path, state.file)
            self.node.cache.pop(str(path), None)

        self._do(path, effect, writes=True)

    def open_write(self, path: Path, mode: str) -> _Writing:
        def effect() -> None:
            self.server.need_room()
            if "x" in mode and self.server.state(path) is not None:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
            self.server.put(path, self.server.new(b""))
            self._changed(path)

        self._do(path, effect, writes=True)
        return _Writing(self, path)

    def write(self, path: Path, data: bytes) -> None:
        """Give an open file its content."""

        def effect(data: bytes = data) -> None:
            self.server.need_room()
            state = self.server.state(path)
            if state is not None:
                self.server.data[state.file] = data

        half = data[: len(data) // 2]
        self._do(path, effect, writes=True, torn=lambda: effect(half))

    def flush(self, file: _Writing) -> None:
        file.save()

    def append(self, path: Path, data: bytes, *, flush: bool) -> None:
        def effect(data: bytes = data) -> None:
            self.server.need_room()
            state = self.server.state(path)
            file = self.server.new(b"") if state is None else state.file
            before = self.server.data[file]
            is_torn = before and not before.endswith(b"\n")
            self.server.data[file] = before + (b"\n" if is_torn else b"") + data
            self.server.put(path, file)
            self._changed(path)

        half = data[: len(data) // 2]
        self._do(path, effect, writes=True, torn=lambda: effect(half))

    def link(self, path: Path, other: Path) -> None:
        def effect() -> None:
            state = self.server.state(path)
            if state is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            if self.server.state(other) is not None:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(other))
            self.server.need_room()
            self.server.put(other, state.file)
            self._changed(other)

        self._do(path, effect, writes=True, again=FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)))

    def replace(self, path: Path, other: Path) -> None:
        def effect() -> None:
            state = self.server.state(path)
            if state is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            self.server.put(other, state.file)
            self.server.put(path, None)
            self._changed(other)

        self._do(path, effect, writes=True)

    def unlink(self, path: Path) -> None:
        def effect() -> None:
            if self.server.state(path) is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            self.server.put(path, None)
            self._changed(path)

        self._do(path, effect, writes=True)

    remove = unlink

    def mkdir(self, path: Path) -> None:
        """Directories are where their files are."""

    def sync_dir(self, path: Path) -> None:
        """What the server has done is on its disk."""
