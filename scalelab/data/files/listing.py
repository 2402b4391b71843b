"""The files that paths and globs name, each once, however many paths lead to it.

    data/*.txt          files of one directory
    data/**/*.jsonl     at any depth; every directory is visited once, also behind symbolic links

Two paths are one file where device and inode are equal (hard and symbolic links). Of several paths
the one without symbolic links is used. `*` and `**` leave out hidden names, as in a shell.

Not here: what is in the files (compression.py, plain.py, records.py).
"""

import fnmatch
import glob
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from scalelab.data.base import SkippedDocuments
from scalelab.data.files.opening import regular_stat, unreadable
from scalelab.errors import DataError
from scalelab.files import check_answered

ANOTHER_PATH = "second path to the same file"
"""Reason under which further paths to one file are counted."""


def expand(patterns: Sequence[str], skips: SkippedDocuments | None = None) -> list[tuple[str, Path]]:
    """Return the files that paths and globs name, each once, with its path below their common directory.

    Args:
        patterns: Paths and globs; a relative one starts at the working directory.
        skips: Further paths to the same file are counted here.

    Raises:
        DataError: A path does not exist or is no regular file, or a glob matches no file.
    """
    paths = dict.fromkeys(path for pattern in patterns for path in _named(pattern))
    found: dict[object, list[Path]] = {}
    for path in paths:
        status = regular_stat(path)
        # Some network file systems number no files.
        same = (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)
        found.setdefault(same, []).append(path)
    chosen = [same[0] if len(same) == 1 else min(same, key=_preference) for same in found.values()]
    shared = Path(os.path.commonpath([path.parent for path in chosen]))
    if skips is not None:
        used = set(chosen)
        for path in paths:  # in order: the first few are recorded as examples
            if path not in used:
                skips.note(ANOTHER_PATH, str(path))
    return sorted((path.relative_to(shared).as_posix(), path) for path in chosen)


def files_below(directory: Path, wanted: Callable[[Path], bool]) -> list[Path]:
    """Return all files below a directory, hidden ones too; every directory is visited once, links followed.

    Args:
        directory: An existing directory.
        wanted: Which files, by their names. Links and pipes of such names are listed too: `expand` refuses them.

    Raises:
        DataError: A directory cannot be read.
    """
    try:
        found = [
            path / entry.name
            for path in _tree(directory.absolute(), hidden=True)
            for entry in _entries(path)
            if wanted(Path(entry.name)) and not _is_dir(entry.path)
        ]
    except OSError as error:
        raise unreadable(Path(error.filename or directory), error) from error
    return sorted(found)


def _preference(path: Path) -> tuple[bool, str]:
    return os.path.realpath(path) != os.fspath(path), os.fspath(path)


def _named(pattern: str) -> list[Path]:
    """The files that one path or glob names."""
    path = Path(os.path.expanduser(pattern))
    if _is_dir(path):
        raise DataError(
            f"{pattern} is a directory, not a file of text",
            where=str(path.absolute()),
            fix=f"name its files, such as {pattern.rstrip('/')}/**/*.txt",
        )
    if os.path.lexists(path):
        return [path.absolute()]
    if not glob.has_magic(pattern):
        try:
            path.stat()
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:  # a name too long, a file for a directory, a NUL
            raise unreadable(path, error) from error
        raise DataError(
            f"there is no file {pattern}",
            where=str(path.absolute()),
            fix="name files that exist; a relative path starts at the working directory",
        )
    root, *parts = path.absolute().parts
    try:
        files = [found for found in _matches(Path(root), parts) if not _is_dir(found)]
    except (OSError, ValueError) as error:
        raise unreadable(Path(getattr(error, "filename", None) or pattern), error) from error
    if not files:
        raise DataError(
            f"the glob {pattern} matches no file",
            where=f"working directory {Path.cwd()}",
            fix="change the glob; ** stands for any depth of directories",
        )
    return files


def _matches(base: Path, parts: Sequence[str]) -> Iterator[Path]:
    """Yield the paths below a directory that the rest of a glob names."""
    if not parts:
        yield base
        return
    head, *rest = parts
    if head == "**":
        if not _is_dir(base):
            return
        for directory in _tree(base):
            yield from _matches(directory, rest or ["*"])
    elif not glob.has_magic(head):
        if os.path.lexists(base / head):
            yield from _matches(base / head, rest)
    else:
        for entry in _entries(base):
            is_shown = head.startswith(".") or not entry.name.startswith(".")
            if is_shown and fnmatch.fnmatchcase(entry.name, head) and (not rest or _is_dir(entry.path)):
                yield from _matches(base / entry.name, rest)


def _tree(base: Path, *, hidden: bool = False) -> Iterator[Path]:
    """Yield a directory and all below it, each once, those behind symbolic links last."""
    seen: set[tuple[int, int]] = set()
    directories, behind_links = [base], []
    while directories or behind_links:
        directory = directories.pop() if directories else behind_links.pop(0)
        status = directory.stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        yield directory
        for entry in reversed(_entries(directory)):
            if (hidden or not entry.name.startswith(".")) and _is_dir(entry.path):
                (behind_links if entry.is_symlink() else directories).append(directory / entry.name)


def _is_dir(path: "str | os.PathLike[str]") -> bool:
    """True for a directory. os.path.isdir takes every error for no directory, and would leave files out."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except ValueError:  # a NUL in the path
        return False
    except OSError as error:
        check_answered(Path(path), error)
        return False


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    if not _is_dir(directory):
        return []
    with os.scandir(directory) as entries:
        return sorted(entries, key=lambda entry: entry.name)
