"""Whole files or none: every file that must survive a crash is written here.

A file is written beside its place, flushed to the disk, then renamed. Whoever finds a
name finds a complete file, whatever was killed and whenever. What the disk refuses
(full, read-only, not ours) becomes a RunError that a person can act on.

Whether a file is there often decides whether work is done, begun or lost. `exists`, `is_dir`, `is_file`, `names_in`,
`matching` and `files_in` say that it is absent only where the file system says so; any other error of it is a
NoAnswer (network_files.py).

Only regular files are read: a pipe or a device may never end.
"""

import errno
import fnmatch
import json
import os
import re
import shutil
import tempfile
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, Self
from uuid import uuid4

from scalelab.errors import RunError
from scalelab.network_files import is_answer
from scalelab.system import special_kind as special_kind
from scalelab.system import system

_FIXES = {
    errno.ENOSPC: "free some space, then run the same command to resume",
    errno.EDQUOT: "free some of your quota, then run the same command to resume",
    errno.EFBIG: "free some space or lift the limit on file sizes, then run the same command again",
    errno.EACCES: "give yourself permission to write there, or choose another directory",
    errno.EPERM: "give yourself permission to write there, or choose another directory",
    errno.EROFS: "choose a directory on a disk that can be written",
    errno.ENOTDIR: "a file stands where a directory is needed: move it away",
    errno.EISDIR: "a directory stands where a file is needed: move it away",
    errno.ELOOP: "a symbolic link stands where a file is needed: move it away",
}
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
"""What file systems without hard links answer."""
_COMPONENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
RESERVED = ("forecasts", "mlflow.db", "mlflow.db-journal", "mlflow-artifacts", "ui.log")
"""Names below the directory of all runs that stand for no work: the ledger of forecasts, MLflow's
database and artifacts, the log of its page."""
_ABANDONED_S = 24 * 3600.0
"""Age from which an unfinished file of another machine counts as left behind by a killed writer."""
_PROBE_BYTES = 16384
"""Bytes for which a disk must have room to count as one that can be written."""
LARGEST_RECORD = 1 << 30
"""Largest file that is read whole, bytes."""


class NoAnswer(RunError):
    """The file system reported an error of its own: whether a file is there, and what it holds, is unknown."""

    @classmethod
    def of(cls, path: Path, error: OSError) -> Self:
        """Return the error for a path that was asked for."""
        return cls(
            f"{path.name} cannot be read: {os.strerror(error.errno) if error.errno else error}",
            where=str(path),
            fix="give yourself permission to read there, then run the same command again"
            if is_answer(error)
            else "see whether the file system is there, then run the same command again: it resumes",
        )


@contextmanager
def looking(path: Path) -> Iterator[None]:
    """Turn what the file system refuses while `path` is looked at into a NoAnswer. FileNotFoundError stays."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise NoAnswer.of(path, error) from error


def check_answered(path: Path, error: Exception) -> None:
    """Raise a NoAnswer if an error is one of the file system and says nothing about the file at `path`.

    An OSError without a number is about content: gzip, bz2 and pyarrow report damage so.
    """
    if isinstance(error, OSError) and error.errno is not None and not is_answer(error):
        raise NoAnswer.of(path, error) from error


def exists(path: Path) -> bool:
    """Return whether there is a file or directory of this name.

    Raises:
        NoAnswer: The file system does not say.
    """
    with looking(path):
        return system().exists(path)


def is_dir(path: Path) -> bool:
    """Return whether there is a directory of this name.

    Raises:
        NoAnswer: The file system does not say.
    """
    with looking(path):
        return system().is_dir(path)


def names_in(path: Path) -> list[str]:
    """Return the names in a directory, in no order; none where there is no directory.

    Raises:
        NoAnswer: The file system does not say.
    """
    try:
        return system().listdir(path)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise NoAnswer.of(path, error) from error


def is_file(path: Path) -> bool:
    """Return whether there is a regular file of this name, or a link to one.

    Raises:
        NoAnswer: The file system does not say.
    """
    with looking(path):
        return system().is_file(path)


def matching(directory: Path, pattern: str = "*") -> list[Path]:
    """Return what a directory holds under names of a pattern, sorted; nothing where there is no directory.

    Path.glob finds nothing in a directory that cannot be read, from Python 3.12 on whatever the error.

    Args:
        directory: The directory.
        pattern: Of a name, as in fnmatch. Hidden names match as others do.

    Raises:
        NoAnswer: The file system does not say.
    """
    return [directory / name for name in sorted(names_in(directory)) if fnmatch.fnmatchcase(name, pattern)]


def files_in(directory: Path, without: Container[str] = ()) -> list[Path]:
    """Return the regular files in a directory and below it, sorted; nothing where there is no directory.

    No directory behind a link is entered.

    Args:
        directory: The directory.
        without: Names of directories that are passed over.

    Raises:
        NoAnswer: The file system does not say.
    """
    found, pending = [], [os.fspath(directory)]
    while pending:
        place = pending.pop()
        with suppress(FileNotFoundError), looking(Path(place)), os.scandir(place) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if entry.name not in without:
                        pending.append(entry.path)
                elif entry.is_file():
                    found.append(Path(entry.path))
    return sorted(found)


def dirs_with(root: Path, relative: str) -> list[Path]:
    """Return the directories in a directory that hold a file or directory, sorted by name.

    Those that this user may not look into are left out: they are not ours.

    Args:
        root: What is looked through; it may be missing.
        relative: Path below each of its directories.

    Raises:
        NoAnswer: The file system does not say.
    """
    found = []
    for name in sorted(names_in(root)):
        try:
            if exists(root / name / relative):
                found.append(root / name)
        except NoAnswer as error:
            if not isinstance(error.__cause__, PermissionError):
                raise
    return found


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file to be read.

    A pipe, a socket, a device or a directory is refused before anything is read, because reading it
    can wait for ever or never end.

    Raises:
        OSError: It cannot be read, or is no regular file; `strerror` is the reason.
    """
    return system().open_read(path)


def read_regular(path: Path, limit: int = LARGEST_RECORD) -> bytes:
    """Return the contents of a regular file of at most `limit` bytes.

    Raises:
        OSError: As open_regular, or it is larger.
    """
    with open_regular(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        data = file.read() if size <= limit else b""  # with a number, so many bytes are set aside
    if max(size, len(data)) > limit:
        raise OSError(errno.EFBIG, f"it is larger than {limit:,} bytes")
    return data


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
    except UnicodeEncodeError as error:
        part = error.object[max(0, error.start - 30) : error.end + 30]
        raise RunError(
            f"cannot write {path.name}: a name in it is not UTF-8: {part!r}",
            where=str(path),
            fix="rename the file or directory so that its name is UTF-8",
        ) from None


def write_error(directory: Path) -> RunError | None:
    """Return what keeps a directory from being written, such as a full disk or quota; None where nothing does.

    A few kilobytes are written and flushed to the disk, in a file without a name.
    """
    try:
        with writing(directory), tempfile.TemporaryFile(dir=directory, buffering=0) as file:
            file.write(bytes(_PROBE_BYTES))
            os.fsync(file.fileno())
    except RunError as error:
        return error
    return None


def make_dir(path: Path) -> Path:
    """`path` as a directory that exists. Raises RunError where it cannot be made."""
    with writing(path):
        system().mkdir(path)
    return path


@contextmanager
def whole(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """A file to write; it appears under its name only once complete and on the disk.

    Leftovers of killed writers of the same file are swept away.
    """
    make_dir(path.parent)
    partial = _partial_of(path)
    try:
        with writing(path):
            with system().open_write(partial, mode) as file:
                yield file
                system().flush(file)
            system().replace(partial, path)
            sync_dir(path.parent)
    finally:
        with suppress(OSError):  # it has its name; or a read-only disk refuses even this
            system().unlink(partial)


@contextmanager
def whole_dir(path: Path) -> Iterator[Path]:
    """A directory to fill; it appears under its name only once all its files are on the disk.

    Whatever stood there before is replaced. Leftovers of killed writers are swept away.
    """
    make_dir(path.parent)
    partial = _partial_of(path)
    try:
        with writing(path):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            yield partial
            for file in files_in(partial):
                with open(file, "rb+") as opened:
                    os.fsync(opened.fileno())
            sync_dir(partial)
            if exists(path):
                shutil.rmtree(path)
            os.replace(partial, path)
            sync_dir(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _partial_of(path: Path, mark: str = "") -> Path:
    """Where `path` is written before it gets its name; those of killed writers are removed."""
    sweep_partials(path.parent, path.name)
    mark = f".{mark}" if mark else ""
    return path.with_name(f".{path.name}{mark}.{machine()}.{system().pid()}.partial")


def sweep_partials(directory: Path, name: str = "*") -> None:
    """Remove what killed writers left in a directory, of one name or of all.

    A writer of this machine is dead when its process is gone; one of another machine when its file
    is a day old.
    """
    pattern = f".{name}.*.partial"
    try:
        leftovers = fnmatch.filter(system().listdir(directory), pattern)
    except OSError:
        return
    for leftover in leftovers:
        owner = leftover.split(".")
        here = len(owner) > 3 and owner[-3] == machine()
        with suppress(OSError):  # removed meanwhile, or not ours to remove
            age = system().time() - system().mtime(directory / leftover)
            if process_start(int(owner[-2])) is None if here else age > _ABANDONED_S:
                system().remove(directory / leftover)


def link_new(draft: Path, path: Path, *, flush: bool = True) -> bool:
    """Give a complete file a second name that is not taken yet. False: it is taken.

    Atomic, also between machines that share a file system. Where that has no hard links, the name
    is taken first and filled after.
    """
    with writing(path):
        try:
            system().link(draft, path)
        except FileExistsError:
            return system().is_same(draft, path)  # true where the answer to our own link was lost
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            try:
                with system().open_write(path, "xb") as file:
                    file.write(read_regular(draft))
                    system().flush(file)
            except FileExistsError:
                return False
        if flush:
            sync_dir(path.parent)
    return True


def write_text(path: Path, text: str) -> None:
    """Write `text` whole or not at all."""
    with whole(path, "w") as file:
        file.write(text)


def write_new(path: Path, text: str, *, flush: bool = True) -> bool:
    """Write `text` where nothing stands yet. False, and nothing is written, where something does.

    Args:
        path: Its directory is made where it is missing.
        text: The whole content.
        flush: Wait until it is on the disk.
    """
    make_dir(path.parent)
    draft = _partial_of(path, uuid4().hex[:8])
    try:
        with writing(path), system().open_write(draft, "x") as file:
            file.write(text)
            if flush:
                system().flush(file)
        return link_new(draft, path, flush=flush)
    finally:
        with suppress(OSError):
            system().unlink(draft)


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
        system().append(path, lines.encode(), flush=flush)


def is_component(name: object) -> bool:
    """Whether a name is safe as one part of a path: no separator, not hidden, not a way up."""
    return isinstance(name, str) and _COMPONENT.fullmatch(name) is not None


def inside(root: Path, relative: str) -> Path:
    """`root / relative`, where that stays below the root, also through symbolic links.

    The root itself may be a symbolic link; what is below it may not.

    Raises:
        RunError: A part of the path is no plain name, or is a symbolic link.
    """
    path = root
    for part in relative.split("/"):
        if not is_component(part):
            raise RunError(
                f"{relative!r} is not a path below the directory of runs",
                where=str(root),
                fix="use names of letters, digits, dots, dashes and underscores",
            )
        path = path / part
        refuse_link(path)
    return path


def refuse_link(path: Path) -> None:
    """Refuse a path that is a symbolic link: what is written there would land elsewhere.

    Raises:
        RunError: It is one.
    """
    if path.is_symlink():
        raise RunError(
            f"{path.name} is a symbolic link, and nothing is written through one",
            where=f"{path} -> {os.readlink(path)}",
            fix="move the link away; to keep runs on another disk, let the directory of all runs be the link",
        )


def place_of(root: Path, name: str) -> Path:
    """The directory of a sweep, a plan or a post-training, where it is safe to write into.

    Raises:
        RunError: The name is no plain one or is reserved, or the directory is a symbolic link or holds one.
    """
    if name in RESERVED:
        raise RunError(
            f"{name!r} cannot be the name of a sweep, a plan or a post-training",
            where=f"{root / name}, which holds something else",
            fix="choose another name",
        )
    path = inside(root, name)
    refuse_links_in(path)
    return path


def refuse_links_in(directory: Path) -> None:
    """Refuse a directory that is a symbolic link or holds one. Raises RunError."""
    refuse_link(directory)
    if directory.is_dir():
        for entry in directory.iterdir():
            refuse_link(entry)


def machine() -> str:
    """Eight hex digits of this machine, its boot and its process numbering.

    Two containers under one kernel that cannot see one another's processes are two machines.
    """
    return system().machine()


def process_start(pid: int) -> int | None:
    """When a process of this machine began, in clock ticks since boot; None: it is gone.

    Together with the pid it names a process for good: pids are used again. 0 where the system has
    no /proc, and the process is there.
    """
    return system().process_start(pid)


def sync_dir(path: Path) -> None:
    """Make a rename in `path` survive a power cut."""
    system().sync_dir(path)


def runs_directory() -> Path:
    """Return the directory of all runs: $SCALELAB_RUNS, or `runs` in the current directory."""
    return Path(os.environ.get("SCALELAB_RUNS") or "runs")
