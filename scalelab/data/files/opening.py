"""Opening files of a source: regular ones only, and what cannot be opened is a DataError.

Not here: how a regular file is opened (scalelab/files.py), compression (compression.py), which files a
pattern names (listing.py).
"""

import os
from pathlib import Path
from typing import BinaryIO

from scalelab.errors import DataError
from scalelab.files import open_regular, special_kind


def regular_stat(path: Path) -> os.stat_result:
    """Return the status of a regular file, links followed.

    Raises:
        DataError: It is missing, cannot be read, or is a named pipe, socket, device or directory.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:  # a ValueError: a zero byte in the path
        if os.path.islink(path):
            raise DataError(
                f"{path.name} is a symbolic link to a file that cannot be reached: {getattr(error, 'strerror', error)}",
                where=f"{path} -> {os.readlink(path)}",
                fix="remove the link, or restore the file that it leads to",
            ) from error
        raise unreadable(path, error) from error
    if (kind := special_kind(status.st_mode)) is not None:
        raise DataError(
            f"{path.name} is {kind}, not a regular file",
            where=str(path),
            fix="write its content into a regular file and name that, or leave it out of the glob",
        )
    return status


def open_source(path: Path) -> BinaryIO:
    """Open a regular file for reading bytes.

    Raises:
        DataError: As regular_stat.
    """
    regular_stat(path)
    try:
        return open_regular(path)
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> DataError:
    """Return an error that names a file of the source and what the system reported."""
    return DataError(
        f"cannot read {path.name}: {getattr(error, 'strerror', None) or error}",
        where=str(path),
        fix="name files that exist and that you may read",
    )
