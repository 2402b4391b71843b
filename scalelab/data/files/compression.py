"""The bytes of a file, decompressed according to its last ending, in chunks of bounded size.

    .gz .bz2 .xz .zst       in upper or lower case; the ending before it is the kind of file

A truncated file is refused: half a corpus must not pass for a whole one. So is a file that expands far
more than text does (a decompression bomb).

Not here: what the bytes mean (plain.py, records.py).
"""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import Any, BinaryIO

from scalelab.data.files.opening import open_source, unreadable
from scalelab.errors import DataError

MAX_RATIO = 400
"""Largest ratio of decompressed to compressed bytes. Text has 3 to 10, very regular records up to 100."""
RATIO_FROM = 16 * 2**20
"""Decompressed bytes below which the ratio is not checked: a small file may be very regular."""
_CHUNK = 1 << 20
_PIECE = 1 << 12
_XZ_MEMORY = 512 * 2**20  # xz -9 needs 65 MiB


def kind_and_packing(name: str | PurePath) -> tuple[str, str]:
    """Return the ending that says what a file is, and the one of its compression, in lower case.

    The second is "" for a file that is not compressed: "a.JSONL.gz" gives (".jsonl", ".gz").
    """
    path = PurePath(name)
    last = path.suffix.lower()
    if last in _READERS:
        return path.with_suffix("").suffix.lower(), last
    return last, ""


def chunks(path: Path) -> Iterator[bytes]:
    """Yield the bytes of a regular file, decompressed by its name.

    Raises:
        DataError: It is no regular file, cannot be read, is cut short, is damaged, or unpacks to
            more than MAX_RATIO times its size.
    """
    packing = kind_and_packing(path)[1]
    try:
        with open_source(path) as file:
            if not packing:
                while chunk := file.read(_CHUNK):
                    yield chunk
            else:
                yield from _bounded(_READERS[packing](file), file, path)
    except ImportError:
        raise needs("zstandard", path) from None
    except EOFError:
        raise DataError(
            f"{path.name} ends in the middle: it was cut short",
            where=str(path),
            fix="fetch or compress the file again",
        ) from None
    except (gzip.BadGzipFile, zlib.error, lzma.LZMAError, _Damaged) as error:
        raise DataError(
            f"cannot decompress {path.name}: {error}",
            where=str(path),
            fix="fetch or compress the file again, or give it the ending of its format",
        ) from error
    except OSError as error:
        if error.errno is None:  # bz2 reports damage so
            raise DataError(
                f"cannot decompress {path.name}: {error}",
                where=str(path),
                fix="fetch or compress the file again, or give it the ending of its format",
            ) from error
        raise unreadable(path, error) from error


class _Damaged(Exception):
    """The library for .zst found damage."""


def _bounded(unpacked: Iterator[bytes], file: BinaryIO, path: Path) -> Iterator[bytes]:
    """Yield pieces of at most _CHUNK bytes, and refuse a decompression bomb."""
    n = 0
    for data in unpacked:
        n += len(data)
        if n > max(RATIO_FROM, MAX_RATIO * file.tell()):
            raise DataError(
                f"{path.name} unpacks to more than {MAX_RATIO} times its size: {file.tell():,} bytes gave "
                f"{n:,} so far",
                where=str(path),
                fix="leave the file out; if its text is wanted, decompress it and name that file",
            )
        for at in range(0, len(data), _CHUNK):
            yield data[at : at + _CHUNK]


def _gz(file: BinaryIO) -> Iterator[bytes]:
    if not file.read(1):
        raise EOFError
    file.seek(0)
    with gzip.open(file) as unpacked:
        while chunk := unpacked.read(_CHUNK):
            yield chunk


def _streams(file: BinaryIO, make: Callable[[], Any]) -> Iterator[bytes]:
    """Decompress consecutive streams, which may be padded with zero bytes."""
    decoder, data = make(), file.read(_PIECE)
    if not data:
        raise EOFError
    while True:
        yield decoder.decompress(data, _CHUNK)
        data = b""
        if decoder.eof:
            data = decoder.unused_data.lstrip(b"\0")
            while not data and (piece := file.read(_PIECE)):
                data = piece.lstrip(b"\0")
            if not data:
                return
            decoder = make()
        elif decoder.needs_input:
            data = file.read(_PIECE)
            if not data:
                raise EOFError


def _bz2(file: BinaryIO) -> Iterator[bytes]:
    return _streams(file, bz2.BZ2Decompressor)


def _xz(file: BinaryIO) -> Iterator[bytes]:
    return _streams(file, lambda: lzma.LZMADecompressor(memlimit=_XZ_MEMORY))


def _zst(file: BinaryIO) -> Iterator[bytes]:
    import zstandard

    # Frame by frame: the library's own reader takes a file that is cut short for its end. In small
    # pieces: four bytes can stand for a block of 128 KiB.
    frame, data = None, file.read(_PIECE)
    if not data:
        raise EOFError
    try:
        while data:
            while data:
                frame = frame or zstandard.ZstdDecompressor().decompressobj()
                yield frame.decompress(data)
                data = frame.unused_data
                if frame.eof:
                    frame = None
            data = file.read(_PIECE)
    except zstandard.ZstdError as error:
        raise _Damaged(str(error)) from error
    if frame is not None:
        raise EOFError


_READERS: dict[str, Callable[[BinaryIO], Iterator[bytes]]] = {
    ".gz": _gz,
    ".bz2": _bz2,
    ".xz": _xz,
    ".zst": _zst,
}


def needs(package: str, path: Path) -> DataError:
    """Return the error about a package that reading a file needs."""
    return DataError(
        f"reading {path.name} needs {package}, which is not installed",
        where=str(path),
        fix="pip install 'scalelab[text]'",
    )
