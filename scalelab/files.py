"""Whole files or none: every file that must survive a crash is written here.

A file is written beside its place, flushed to the disk, then renamed. Whoever finds a
name finds a complete file, whatever was killed and whenever. What the disk refuses
(full, read-only, not ours) becomes a RunError that a person can act on.
"""

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from scalelab.errors import LaunchError, RunError

_FIXES = {
    errno.ENOSPC: "free some space, then run the same command again: it goes on from here",
    errno.EDQUOT: "free some of your quota, then run the same command again: it goes on from here",
    errno.EFBIG: "free some space or lift the limit on file sizes, then run the same command again",
    errno.EACCES: "give yourself permission to write there, or choose another directory",
    errno.EPERM: "give yourself permission to write there, or choose another directory",
    errno.EROFS: "choose a directory on a disk that can be written",
    errno.ENOTDIR: "a file stands where a directory is needed: move it away",
    errno.EISDIR: "a directory stands where a file is needed: move it away",
}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the disk refuses while `path` is written into a RunError that names it."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"cannot write {path.name}: {os.strerror(error.errno) if error.errno else error}",
            where=str(path),
            fix=_FIXES.get(error.errno or 0, "check the disk and the path, then run it again"),
        ) from error


def make_dir(path: Path) -> Path:
    """`path` as a directory that exists. Raises RunError where it cannot be made."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def whole(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """A file to write; it appears under its name only once complete and on the disk."""
    make_dir(path.parent)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with writing(path):
            with open(partial, mode, encoding=None if "b" in mode else "utf-8") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
            _sync_dir(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_dir(path: Path) -> Iterator[Path]:
    """A directory to fill; it appears under its name only once all its files are on the disk.

    Whatever stood there before is replaced. Leftovers of killed writers are swept away.
    """
    make_dir(path.parent)
    for leftover in path.parent.glob(f".{path.name}.*.partial"):
        if not _is_alive(leftover.name.split(".")[-2]):
            shutil.rmtree(leftover, ignore_errors=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with writing(path):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            yield partial
            for file in partial.rglob("*"):
                if file.is_file():
                    with open(file, "rb+") as opened:
                        os.fsync(opened.fileno())
            _sync_dir(partial)
            if path.exists():
                shutil.rmtree(path)
            os.replace(partial, path)
            _sync_dir(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` whole or not at all."""
    with whole(path, "w") as file:
        file.write(text)


def write_json(path: Path, value: object) -> None:
    """Write `value` as JSON, whole or not at all. NaN and infinity are our own bug."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def append(path: Path, lines: str, *, flush: bool = False) -> None:
    """Add whole lines to a file in a single write, so that those of two writers never interleave.

    A line that a killed writer tore is ended first, or it would swallow the next one.

    Args:
        path: Made where it is missing.
        lines: With the end of the last one.
        flush: Wait until they are on the disk.
    """
    with writing(path):
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(handle).st_size
            is_torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
            data = (b"\n" if is_torn else b"") + lines.encode()
            if os.write(handle, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if flush:
                os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def locked(path: Path, problem: str, fix: str) -> Iterator[None]:
    """Hold the lock file `path`. The lock goes with the process, however that ends.

    Raises:
        LaunchError: Another process holds it; the message names its process id.
    """
    make_dir(path.parent)
    with writing(path):
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - closed below
    with file:
        if not _taken(file):
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise LaunchError(problem, where=f"{path}, held by process {holder}", fix=fix)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _taken(file: IO[Any]) -> bool:
    """Whether the lock could be had. Somebody who only looks holds it for an instant."""
    for wait_s in (0.02, 0.05, 0.1, None):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if wait_s is not None:
                time.sleep(wait_s)
    return False


def _sync_dir(path: Path) -> None:
    """Make a rename in `path` survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_alive(pid: str) -> bool:
    return pid.isdigit() and Path(f"/proc/{pid}").exists()
