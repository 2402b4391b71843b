r"""Plain text: UTF-8, whole or line by line.

    encoding        UTF-8; other bytes, and zero bytes, are refused with file, line and offset; an escaped
                    zero character in a record (\u0000) is a character
    byte-order mark dropped at the start of a file; elsewhere it is an ordinary character
    line ends       kept; a line ends at \n, \r\n or \r, nowhere else

A document, a line or a record of more than MAX_BYTES is refused: it is usually a
file whose documents have not been separated, and it might not fit into memory.

Not here: records (records.py), compression (compression.py).
"""

import codecs
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from scalelab.data.files.compression import chunks
from scalelab.errors import DataError

MAX_BYTES = 16 * 2**20
"""Largest document or record, characters, and largest line, bytes. To sketch one of this size (corpus/sketches.py)
takes 5 s and 0.5 GB."""
BOM = "\ufeff"
_MAGIC = {
    b"\xff\xfe": "UTF-16; convert it: iconv -f UTF-16 -t UTF-8",
    b"\xfe\xff": "UTF-16; convert it: iconv -f UTF-16 -t UTF-8",
    b"\x1f\x8b": "compressed by gzip; let its name end in .gz",
    b"BZh": "compressed by bzip2; let its name end in .bz2",
    b"\xfd7zXZ": "compressed by xz; let its name end in .xz",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; let its name end in .zst",
    b"PAR1": "parquet; let its name end in .parquet",
    b"PK\x03\x04": "a zip archive or an office document; unpack it, or save it as .csv or .txt",
    b"%PDF": "PDF; extract its text first",
    b"ARROW1": "Arrow or feather; save it as .parquet",
}


def whole_text(path: Path) -> str:
    """Return a file's text, without a byte-order mark.

    Raises:
        DataError: It is not UTF-8, holds a zero byte, is cut short, or has more than MAX_BYTES.
    """
    parts, size = [], 0
    for text in text_chunks(path):
        parts.append(text)
        size += len(text)
        if size > MAX_BYTES:
            raise too_large(
                "one document", str(path), "set document: paragraph or document: line, or divide the file"
            )
    return "".join(parts)


def text_chunks(path: Path) -> Iterator[str]:
    """Yield a file's text in pieces, without a byte-order mark. Raises DataError as whole_text."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    is_first, line, at = True, 1, 0
    for data in _with_end(chunks(path)):
        if (zero := data.find(b"\0")) >= 0:
            raise _not_text(path, line + data.count(b"\n", 0, zero), f"a zero byte at {at + zero}")
        pending = len(decoder.getstate()[0])
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            bad, start = error.object[error.start], at - pending + error.start
            line += error.object.count(b"\n", 0, error.start)
            raise _not_text(path, line, f"byte {bad:#04x} at {start}") from None
        at += len(data)
        line += data.count(b"\n")
        if is_first and text:
            text, is_first = text.removeprefix(BOM), False
        if text:
            yield text


def _with_end(pieces: Iterator[bytes]) -> Iterator[bytes]:
    yield from pieces
    yield b""


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the number, from 1, and text of each line with its end, one in memory at a time.

    Raises:
        DataError: As whole_text, with the line.
    """
    for number, line in enumerate(_byte_lines(path), 1):
        if (zero := line.find(b"\0")) >= 0:
            raise _not_text(path, number, f"a zero byte at {zero} of the line")
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            what = f"byte {line[error.start]:#04x} at {error.start} of the line"
            raise _not_text(path, number, what) from None
        yield number, text if number > 1 else text.removeprefix(BOM)


def _byte_lines(path: Path) -> Iterator[bytes]:
    rest, n = b"", 1
    for chunk in chunks(path):
        found = (rest + chunk).splitlines(keepends=True)  # of bytes: at \n, \r\n and \r only
        # A \r at the end of a piece may be half of \r\n.
        rest = b"" if found[-1].endswith(b"\n") else found.pop()
        n += len(found)
        yield from found
        if len(rest) > MAX_BYTES:
            raise too_large("the line", f"{path}:{n}", "end lines where documents end, or leave the file out")
    if rest:
        yield rest


def too_large(what: str, where: str, fix: str) -> DataError:
    """Return the error about a document, line or record of more than MAX_BYTES."""
    return DataError(f"{what} has more than {MAX_BYTES // 2**20} MiB of text", where=where, fix=fix)


def check_characters(text: str, where: str) -> None:
    """Refuse text of a record with half of a surrogate pair, which UTF-8 cannot hold. Raises DataError."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(
            "the text holds half of a surrogate pair, which is no character",
            where=where,
            fix="correct or remove the record",
        ) from None


def _not_text(path: Path, line: int, what: str) -> DataError:
    fix = "leave the file out, or convert it to UTF-8: iconv -f LATIN1 -t UTF-8, if it is in Latin-1"
    begins = b"".join(islice(chunks(path), 1))[:8]
    if {".tar", ".tgz"} & {suffix.lower() for suffix in path.suffixes}:
        fix = "unpack the archive and name the files in it"
        begins = b""
    for magic, advice in _MAGIC.items():
        if begins.startswith(magic):
            fix = f"the file is {advice}"
    return DataError(f"{path.name} is not UTF-8 text: {what}", where=f"{path}:{line}", fix=fix)
