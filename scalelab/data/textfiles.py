"""Files of text as people keep them: plain, compressed, a record a line, or in columns.

    notes.txt  notes.txt.gz  notes.txt.zst        text
    web.jsonl  web.jsonl.gz  web.jsonl.zst        one JSON object a line, the text in a field
    web.parquet                                   the text in a column

Whatever is not text, is cut short, or lacks the field is refused, with its file and line:
half a corpus must not pass for a whole one.
"""

import glob
import gzip
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scalelab.data.base import Skips
from scalelab.data.hashing import unreadable
from scalelab.errors import DataError

_CHUNK = 1 << 20


def expand(patterns: tuple[str, ...]) -> list[tuple[str, Path]]:
    """The files that paths and globs name, each once, with its path below what all share.

    Raises:
        DataError: A path does not exist, is a directory, or a glob matches no file.
    """
    try:
        found = {path for pattern in patterns for path in _named(pattern)}
    except OSError as error:  # a name too long, a directory on the way that is not ours
        raise unreadable(Path(error.filename or patterns[0]), error) from error
    shared = Path(os.path.commonpath([path.parent for path in found]))
    return sorted((path.relative_to(shared).as_posix(), path) for path in found)


def _named(pattern: str) -> list[Path]:
    """The files that one path or glob names."""
    path = Path(pattern).expanduser()
    if path.is_dir():
        raise DataError(
            f"{pattern} is a directory, not a file of text",
            where=str(path.absolute()),
            fix=f"name its files, such as {pattern.rstrip('/')}/**/*.txt",
        )
    if path.exists():
        return [path.absolute()]
    if not glob.has_magic(pattern):
        raise DataError(
            f"there is no file {pattern}",
            where=str(path.absolute()),
            fix="name files that exist; a relative path starts at the working directory",
        )
    files = [Path(p).absolute() for p in glob.glob(str(path), recursive=True) if Path(p).is_file()]
    if not files:
        raise DataError(
            f"the glob {pattern} matches no file",
            where=f"working directory {Path.cwd()}",
            fix="change the glob; ** stands for any depth of directories",
        )
    return files


def whole_text(path: Path) -> str:
    """A plain file's text, decompressed, without a byte-order mark."""
    return _decode(b"".join(_chunks(path)), path).removeprefix("\ufeff")


def lines_of_text(path: Path) -> Iterator[str]:
    """A plain file's lines, each with its line end, never more than one in memory."""
    for i, line in enumerate(_lines(path)):
        text = _decode(line, path)
        yield text if i else text.removeprefix("\ufeff")


def json_records(path: Path, field: str, skips: Skips) -> Iterator[tuple[str, str]]:
    """Name (file:line) and text of each object of a JSONL file; lines that are blank are none."""
    for number, record in json_rows(path):
        where = f"{path}:{number}"
        if field not in record:
            raise DataError(
                f"the record has no field {field!r}",
                where=where,
                fix="name the field that holds the text (field: ...); there are: "
                + (", ".join(map(str, record)) or "no keys"),
            )
        yield from _checked(record[field], f"{path.name}:{number}", where, skips)


def json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of each line of a JSONL file; lines that are blank are none.

    Raises:
        DataError: Naming the line that is not a JSON object.
    """
    for number, line in enumerate(_lines(path), 1):
        where = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"not JSON: {getattr(error, 'msg', None) or error}",
                where=where,
                fix="mend or remove the line; JSONL holds one object a line",
            ) from None
        if not isinstance(record, dict):
            raise DataError(
                f"the line holds {type(record).__name__}, not an object with fields",
                where=where,
                fix="mend or remove the line; JSONL holds one object a line",
            )
        yield number, record


def rows_of(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where it stands, and each record, of a JSONL or parquet file, by its ending.

    Raises:
        DataError: The file is of another kind, or a record cannot be read.
    """
    bare = path.with_suffix("") if path.suffix in {".gz", ".zst"} else path
    if bare.suffix in {".jsonl", ".ndjson"}:
        yield from ((f"{path}:{number}", record) for number, record in json_rows(path))
    elif path.suffix == ".parquet":
        yield from ((f"{path}, row {row}", record) for row, record in parquet_rows(path, None))
    else:
        raise DataError(
            f"{path.name} is neither JSONL nor parquet",
            where=str(path),
            fix="name files that end in .jsonl, .jsonl.gz, .jsonl.zst or .parquet",
        )


def parquet_records(path: Path, field: str, skips: Skips) -> Iterator[tuple[str, str]]:
    """Name (file:row) and text of each row of a parquet file."""
    for row, record in parquet_rows(path, field):
        yield from _checked(record[field], f"{path.name}:{row}", f"{path}, row {row}", skips)


def parquet_rows(path: Path, field: str | None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number, from 1, and record of each row of a parquet file; of one column, or of all.

    Raises:
        DataError: The file is not whole, has no such column, or pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise _needs("pyarrow", path) from None
    try:
        with parquet.ParquetFile(path) as file:
            if field is not None and field not in file.schema_arrow.names:
                raise DataError(
                    f"the table has no column {field!r}",
                    where=str(path),
                    fix="name the column that holds the text (field: ...);"
                    f" there are: {', '.join(file.schema_arrow.names)}",
                )
            row = 0
            columns = None if field is None else [field]
            for batch in file.iter_batches(batch_size=1024, columns=columns):
                for record in batch.to_pylist():
                    row += 1
                    yield row, record
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read {path.name} as parquet: {str(error).splitlines()[0]}",
            where=str(path),
            fix="name a whole parquet file",
        ) from error
    except OSError as error:
        raise unreadable(path, error) from error


def _checked(value: object, name: str, where: str, skips: Skips) -> Iterator[tuple[str, str]]:
    """One name and text, or none and a note."""
    if value is None or value == "":
        skips.note("empty", name)
        return
    if not isinstance(value, str):
        raise DataError(
            f"the field holds {type(value).__name__}, not text: {value!r:.60}",
            where=where,
            fix="name the field that holds the text (field: ...)",
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(
            "the text holds half of a surrogate pair, which is no character",
            where=where,
            fix="mend or remove the record",
        ) from None
    yield name, value


def _decode(data: bytes, path: Path) -> str:
    if (at := data.find(b"\0")) >= 0:
        raise _not_text(path, f"a zero byte at {at}")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _not_text(path, f"byte {data[error.start]:#04x} at {error.start}") from None


def _not_text(path: Path, what: str) -> DataError:
    return DataError(
        f"{path.name} is not UTF-8 text: {what}",
        where=str(path),
        fix="leave the file out, or convert it to UTF-8",
    )


def _lines(path: Path) -> Iterator[bytes]:
    rest = b""
    for chunk in _chunks(path):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line + b"\n" for line in lines)
    if rest:
        yield rest


def _chunks(path: Path) -> Iterator[bytes]:
    """The bytes of a file, decompressed by its name. Refuses a file that is cut short."""
    try:
        with open(path, "rb") as file:
            if path.suffix == ".gz":
                with gzip.open(file) as unpacked:
                    while chunk := unpacked.read(_CHUNK):
                        yield chunk
            elif path.suffix == ".zst":
                yield from _unzst(file, path)
            else:
                while chunk := file.read(_CHUNK):
                    yield chunk
    except EOFError:
        raise _cut_short(path) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"cannot decompress {path.name}: {error}",
            where=str(path),
            fix="fetch or compress the file again",
        ) from error
    except OSError as error:
        raise unreadable(path, error) from error


def _unzst(file, path: Path) -> Iterator[bytes]:
    try:
        import zstandard
    except ImportError:
        raise _needs("zstandard", path) from None
    # Frame by frame: the library's own reader takes a file that is cut short for its end.
    frame = None
    try:
        while data := file.read(_CHUNK):
            while data:
                frame = frame or zstandard.ZstdDecompressor().decompressobj()
                yield frame.decompress(data)
                data = frame.unused_data
                if frame.eof:
                    frame = None
    except zstandard.ZstdError as error:
        raise DataError(
            f"cannot decompress {path.name}: {error}",
            where=str(path),
            fix="fetch or compress the file again",
        ) from error
    if frame is not None:
        raise _cut_short(path)


def _cut_short(path: Path) -> DataError:
    return DataError(
        f"{path.name} ends in the middle: it was cut short",
        where=str(path),
        fix="fetch or compress the file again",
    )


def _needs(package: str, path: Path) -> DataError:
    return DataError(
        f"reading {path.name} needs {package}, which is not installed",
        where=str(path),
        fix="pip install 'scalelab[text]'",
    )
