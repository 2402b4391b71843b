"""The clock, the processes and the file operations that leases, journals and the driver rest on.

    leases, files, run directories, driver -> system() -> operating system

Everything that decides which process may write, and what was done already, asks `system()` for the time
and for each operation on a file. Another System can take its place (`use`): a simulation of several
machines with their own clocks, caches and failures, under the same production code.

Paths are absolute or relative to the current directory. Units: seconds, bytes.
Errors are those of the operating system (OSError), also from another System.
Not here: whole files and their errors for people (files.py).
"""

import errno
import hashlib
import os
import shutil
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import IO, Any, BinaryIO

from scalelab.network_files import ABSENT

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)
"""Files that are not regular. Reading one can wait for ever, or never end."""


def special_kind(mode: int) -> str | None:
    """Return what the file of a status (st_mode) is, in words; None for a regular file."""
    if stat.S_ISREG(mode):
        return None
    return next((name for is_kind, name in _KINDS if is_kind(mode)), "a special file")


class System:
    """This machine."""

    def time(self) -> float:
        """Seconds since 1970 by this machine's clock, which another machine's may disagree with."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since some moment; never set back."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Wait until an event is set, at most so long. True: it is set."""
        return event.wait(seconds)

    def spawn(self, target: Callable[[], None], name: str) -> None:
        """Run a function in a thread that ends with this process."""
        threading.Thread(target=target, name=name, daemon=True).start()

    def pid(self) -> int:
        """Number of this process."""
        return os.getpid()

    def host(self) -> str:
        """Name of this machine, for people."""
        return os.uname().nodename

    def machine(self) -> str:
        """See files.machine."""
        return _machine()

    def process_start(self, pid: int) -> int | None:
        """See files.process_start."""
        return _process_start(pid)

    def listdir(self, path: Path) -> list[str]:
        """Names in a directory, in no order."""
        return os.listdir(path)

    def exists(self, path: Path) -> bool:
        """True if there is a file or directory of this name. False only where the file system says so."""
        return self._mode(path) is not None

    def is_dir(self, path: Path) -> bool:
        """True if there is a directory of this name. False only where the file system says so."""
        mode = self._mode(path)
        return mode is not None and stat.S_ISDIR(mode)

    def is_file(self, path: Path) -> bool:
        """True if there is a regular file of this name. False only where the file system says so."""
        mode = self._mode(path)
        return mode is not None and stat.S_ISREG(mode)

    def _mode(self, path: Path) -> int | None:
        """Return the mode of a file; None without one. Path.exists takes other errors for no file since 3.14."""
        try:
            return os.stat(path).st_mode
        except ValueError:  # a NUL in the path
            return None
        except OSError as error:
            if error.errno in ABSENT:
                return None
            raise

    def mtime(self, path: Path) -> float:
        """Time of the last change of a file by the clock of its file system."""
        return path.stat().st_mtime

    def size(self, path: Path) -> int:
        """Bytes of a file."""
        return path.stat().st_size

    def is_same(self, path: Path, other: Path) -> bool:
        """True if two names are those of one file."""
        return os.path.samefile(path, other)

    def touch(self, path: Path) -> None:
        """Create an empty file, or give it the present time of its file system."""
        path.touch()

    def renew(self, path: Path) -> None:
        """Give a file that is there the present time of its file system."""
        os.utime(path)

    def open_read(self, path: Path) -> BinaryIO:
        """Open a regular file to be read. Any other kind is refused before anything is read."""
        try:
            _refuse_special(os.stat(path).st_mode)
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except ValueError as error:  # a NUL in the path
            raise OSError(errno.EINVAL, str(error)) from None
        try:
            _refuse_special(os.fstat(handle).st_mode)  # O_NONBLOCK: it may have been replaced since
        except OSError:
            os.close(handle)
            raise
        return os.fdopen(handle, "rb")

    def open_write(self, path: Path, mode: str) -> IO[Any]:
        """Open a file to be written: "w" and "x" for text in UTF-8, "wb" and "xb" for bytes."""
        return open(path, mode, encoding=None if "b" in mode else "utf-8")

    def flush(self, file: IO[Any]) -> None:
        """Wait until what was written is on the disk."""
        file.flush()
        os.fsync(file.fileno())

    def append(self, path: Path, data: bytes, *, flush: bool) -> None:
        """Add bytes to a file in a single write; a last line without its end is ended first."""
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        handle = os.open(path, flags, 0o644)
        try:
            size = os.fstat(handle).st_size
            is_torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
            data = (b"\n" if is_torn else b"") + data
            if os.write(handle, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if flush:
                os.fsync(handle)
        finally:
            os.close(handle)

    def link(self, path: Path, other: Path) -> None:
        """Give a file a second name that is not taken."""
        os.link(path, other)

    def replace(self, path: Path, other: Path) -> None:
        """Give a file another name; what had that name is gone."""
        os.replace(path, other)

    def unlink(self, path: Path) -> None:
        """Remove a name."""
        os.unlink(path)

    def remove(self, path: Path) -> None:
        """Remove a file, or a directory with all that it holds."""
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def mkdir(self, path: Path) -> None:
        """Make a directory and those above it where they are missing."""
        path.mkdir(parents=True, exist_ok=True)

    def sync_dir(self, path: Path) -> None:
        """Wait until the names in a directory are on the disk."""
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


_THIS_MACHINE = System()
_CURRENT: ContextVar[System] = ContextVar("system", default=_THIS_MACHINE)


def system() -> System:
    """Return the System of this thread: this machine, unless `use` says otherwise."""
    return _CURRENT.get()


@contextmanager
def use(other: System) -> Iterator[None]:
    """Let this thread work on another System."""
    before = _CURRENT.set(other)
    try:
        yield
    finally:
        _CURRENT.reset(before)


class clock:  # noqa: N801  stands in for the module `time`
    """The part of the module `time` that waits and measures, on the System of this thread."""

    @staticmethod
    def time() -> float:
        """See System.time."""
        return system().time()

    @staticmethod
    def monotonic() -> float:
        """See System.monotonic."""
        return system().monotonic()

    @staticmethod
    def sleep(seconds: float) -> None:
        """See System.sleep."""
        system().sleep(seconds)


def _refuse_special(mode: int) -> None:
    if (kind := special_kind(mode)) is not None:
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file")


@cache
def _machine() -> str:
    words = [socket.gethostname()]
    with suppress(OSError):
        words.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with suppress(OSError):
        words.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:8]


def _process_start(pid: int) -> int | None:
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except OSError:
            return 0
        return 0
    fields = status.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])
