"""Bytes of a table file: a regular file of limited size, unpacked within a limit.

    open_table(path) -> TableBytes      what kind of file it is, by its first bytes

What a file is, its first bytes say and not its name: a .csv may be gzip. Compressed files are
unpacked until LARGEST_UNPACKED, so that a small file cannot fill the memory.

Not here: rows and columns (table_file.py).
"""

import bz2
import gzip
import io
import lzma
import os
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from scalelab.errors import DataError
from scalelab.files import open_regular

LARGEST = 500_000_000
"""Bytes of a file that is read: a million runs with thirty columns have 300 MB."""
LARGEST_UNPACKED = 200_000_000
"""Bytes of a compressed file once unpacked; they are held in memory beside the table."""
LARGEST_OBJECTS = 50_000_000
"""Bytes of JSON or of an Excel workbook once unpacked; its cells take twenty times that in memory."""
NAME_A_TABLE = "name a table with a header and a row per run: CSV, Excel, JSON, JSONL, parquet or feather"
KINDS = ("text", "json", "xlsx", "parquet", "feather")
Kind = Literal["text", "json", "xlsx", "parquet", "feather"]
ENDINGS = (".csv", ".tsv", ".parquet", ".xlsx", ".json", ".jsonl", ".ndjson", ".feather", ".arrow")
"""Endings by which a name is that of a table, in any case, also with one of PACKED after it."""
PACKED = (".gz", ".zst", ".bz2", ".xz", ".zip")
_BOMS = (
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)


def has_table_ending(name: str | Path) -> bool:
    """Return whether a name ends as one of a table does: runs.csv, RUNS.CSV, runs.tsv.gz."""
    path = Path(str(name).lower())
    return (path.with_suffix("") if path.suffix in PACKED else path).suffix in ENDINGS


@dataclass(frozen=True, eq=False)
class TableBytes:
    """A table file, unpacked if it was compressed."""

    path: Path
    kind: Kind
    packing: str
    """Name of the compression; empty for none."""
    data: bytes | None
    """Content in UTF-8, or None where the file itself can be read."""

    def open(self) -> IO[bytes]:
        """Return the content, from its beginning."""
        return open(self.path, "rb") if self.data is None else io.BytesIO(self.data)


def open_table(path: Path) -> TableBytes:
    """Return what kind of table a file is, with its content where it had to be unpacked.

    Raises:
        DataError: It is not a regular file, is too large, or is no kind of table.
    """
    fix = NAME_A_TABLE
    try:
        return _open(path)
    except FileNotFoundError:
        problem = "there is no such file"
    except UnicodeDecodeError as error:
        problem = (
            f"the file is not text: its first bytes say {error.encoding}, and others are not ({error.reason})"
        )
    except (
        EOFError,
        zlib.error,
        lzma.LZMAError,
        zipfile.BadZipFile,
        NotImplementedError,
        RuntimeError,
    ) as error:
        problem = f"it cannot be unpacked: {(str(error).splitlines() or ['it is cut off'])[0][:200]}"
        fix = "copy it again, or unpack it first"
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        problem = f"it cannot be read as a table: {reason.splitlines()[0][:200]}"
    raise DataError(problem, where=str(path), fix=fix)


def _open(path: Path) -> TableBytes:
    with open_regular(path) as file:
        size, head = os.fstat(file.fileno()).st_size, file.read(4096)
    if not size:
        raise _refused(path, "the file is empty")
    if size > LARGEST:
        problem = f"the file has {size / 1e6:.0f} MB, and a run table at most {LARGEST / 1e6:.0f} MB"
        raise _refused(path, problem)
    packing, data = _unpacked(path, head)
    if data is not None:
        head = data[:4096]
    if data is None and head[:4] == b"PK\3\4":
        packing, data = _unzipped(path)
        head = b"" if data is None else data[:4096]
        if data is None:
            return TableBytes(path, "xlsx", "", None)
    if packing and not data:
        raise _refused(path, "the file is empty once unpacked")
    return _of_kind(path, packing, data, head)


def _of_kind(path: Path, packing: str, data: bytes | None, head: bytes) -> TableBytes:
    if head[:4] == b"PAR1":
        return TableBytes(path, "parquet", packing, data)
    if head[:6] == b"ARROW1":
        return TableBytes(path, "feather", packing, data)
    if head[:4] == b"FEA1":
        raise _refused(
            path, "feather of version 1 cannot be read", "write it with pyarrow 1 or later, or as CSV"
        )
    if head[:8] == b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1":
        raise _refused(path, "it is a workbook of Excel 2003 or older", "save it as .xlsx or .csv")
    encoding = next((name for mark, name in _BOMS if head.startswith(mark)), None)
    if encoding is not None:
        size = path.stat().st_size if data is None else len(data)
        if size > LARGEST_UNPACKED:
            raise _too_large(path, LARGEST_UNPACKED, "the file")
        data = (path.read_bytes() if data is None else data).decode(encoding).encode()
        head = data[:4096]
    if b"\0" in head:
        raise _refused(path, "the file is not text")
    is_json = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[")
    if is_json and (path.stat().st_size if data is None else len(data)) > LARGEST_OBJECTS:
        raise _too_large(path, LARGEST_OBJECTS, "the JSON")
    return TableBytes(path, "json" if is_json else "text", packing, data)


def _unpacked(path: Path, head: bytes) -> tuple[str, bytes | None]:
    """Return the compression of a file and its content; "" and None where it is not compressed."""
    if head[:2] == b"\x1f\x8b":
        return "gzip", _limited(path, gzip.open)
    if head[:3] == b"BZh":
        return "bzip2", _limited(path, bz2.open)
    if head[:6] == b"\xfd7zXZ\0":
        return "xz", _limited(path, lzma.open)
    if head[:4] == b"\x28\xb5\x2f\xfd":
        return "zstandard", _limited(path, _Zstandard)
    return "", None


class _Zstandard:
    """Frames of zstandard as a file to read; one that is cut off is an error, as of gzip."""

    FED = 1024
    """Compressed bytes that are fed at once: they unpack to at most 40 MB."""

    def __init__(self, path: Path):
        try:
            import zstandard
        except ImportError:
            raise _refused(
                path, "reading .zst needs zstandard", "pip install 'scalelab[tables]', or unpack it first"
            ) from None
        self._library, self._path, self._frame, self._rest = zstandard, path, None, b""

    def read(self, _size: int) -> bytes:
        """Return some unpacked bytes, none at the end."""
        while fed := self._rest or self._file.read(self.FED):
            frame = self._frame or self._library.ZstdDecompressor().decompressobj()
            try:
                data = frame.decompress(fed)
            except self._library.ZstdError as error:
                raise zlib.error(str(error)) from error
            self._rest, self._frame = frame.unused_data, None if frame.eof else frame
            if data:
                return data
        if self._frame is not None:
            raise EOFError("the file ends within a frame")
        return b""

    def __enter__(self) -> "_Zstandard":
        self._file = open(self._path, "rb")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _limited(path: Path, opener: Callable[[Path], Any]) -> bytes:
    """Return the unpacked content of a file, up to the limit."""
    parts, size = [], 0
    with opener(path) as file:
        while part := file.read(1 << 20):
            size += len(part)
            if size > LARGEST_UNPACKED:
                raise _too_large(path, LARGEST_UNPACKED, "the file, once unpacked,")
            parts.append(part)
    return b"".join(parts)


def _unzipped(path: Path) -> tuple[str, bytes | None]:
    """Return the only file of an archive; "" and None for a workbook of Excel."""
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        size = sum(member.file_size for member in members)
        if any(member.filename == "xl/workbook.xml" for member in members):
            if size > LARGEST_OBJECTS:
                raise _too_large(path, LARGEST_OBJECTS, "the workbook, once unpacked,")
            return "", None
        members = [member for member in members if not member.filename.startswith("__MACOSX/")]
        if len(members) != 1:
            raise _refused(
                path, f"it is an archive of {len(members)} files", "unpack it, and name the table in it"
            )
        if size > LARGEST_UNPACKED:
            raise _too_large(path, LARGEST_UNPACKED, "the file, once unpacked,")
        return "zip", archive.read(members[0])


def _too_large(path: Path, limit: int, what: str) -> DataError:
    return _refused(path, f"{what} has more than {limit / 1e6:.0f} MB, the most of a run table of this kind")


def _refused(path: Path, problem: str, fix: str = NAME_A_TABLE) -> DataError:
    return DataError(problem, where=str(path), fix=fix)
