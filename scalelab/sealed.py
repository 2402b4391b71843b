"""Sealed state files: what the program writes and later believes, and how it is verified.

    record   {"schema": 2, ..., "seal": "<32 hex digits>"}     a JSON file, written whole or once
    line     {"t": 17, ..., "crc": "<8 hex digits>"}           one event of a file that grows
    text     ...# seal: <32 hex digits>                        YAML that people may read and copy
    file     its digest stands in a record beside it           tensors, tokens, tokenizers

The seal is BLAKE2b (16 bytes) over the canonical JSON of the record and the name of its format;
the checksum of a line is the CRC-32 of the line without it; the digest of a file is its SHA-256,
and of a checkpoint's files, which are large and written often, its XXH3-128. They detect damage
and edits, not an adversary who computes a new seal. Whatever does not hold is an error that names
the file and what to do; in a file that grows, a line that does not hold is skipped and counted.

Files from before the seals are read where a format names the schema that they have (`unsealed`).
They carry fewer guarantees: their types are checked, their values are not.

Not here: how files are written whole (files.py), who may write (leases.py).
"""

import hashlib
import json
import os
import threading
import zlib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from scalelab.errors import RunError, ScalelabError
from scalelab.files import NoAnswer, check_answered, open_regular, read_regular, write_new, write_text
from scalelab.network_files import is_answer

Record = TypeVar("Record")

SEAL, SCHEMA, CRC = "seal", "schema", "crc"
_TAIL = len(',"crc":"00000000"}')
_TEXT_MARK = "# seal: "
_CHUNK = 2**20


class Damaged(Exception):
    """What does not hold about a state file, in a few words; becomes the format's own error."""


@dataclass(frozen=True)
class Format(Generic[Record]):
    """One kind of sealed JSON file.

    Args:
        noun: What such a file is, in messages ("run result").
        type: A dataclass of JSON types; what `read` returns.
        schema: Version that is written, and read.
        error: What is raised where a file does not hold.
        fix: What to do then; must be true of every such file.
        unsealed: Schema of files from before the seals, which are read too; None where there are
            none. 0 stands for files without a schema number.
    """

    noun: str
    type: type[Record]
    schema: int
    error: type[ScalelabError] = RunError
    fix: str = "restore the file from a copy, or delete it and run the same command again"
    unsealed: int | None = None

    def text(self, record: Record) -> str:
        """The file's whole content."""
        plain = {SCHEMA: self.schema, **_plain(record)}
        return json.dumps({**plain, SEAL: self._seal(plain)}, indent=1, allow_nan=False) + "\n"

    def write(self, path: Path, record: Record) -> None:
        """Write the record, whole or not at all, over what stands there."""
        write_text(path, self.text(record))

    def write_once(self, path: Path, record: Record) -> bool:
        """Write the record where nothing stands yet. False, and nothing is written, elsewhere."""
        return write_new(path, self.text(record))

    def read(self, path: Path) -> Record:
        """The record in a file.

        Raises:
            FileNotFoundError: There is none.
            NoAnswer: The file system does not say.
            ScalelabError: The format's own: the file does not hold.
        """
        try:
            return self.parse(_text_of(path))
        except Damaged as damage:
            raise self.refusal(path, damage) from None

    def parse(self, text: str) -> Record:
        """The record that a text holds. Raises Damaged."""
        try:
            plain = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise Damaged(f"it is not JSON: {error}" if text.strip() else "it is empty") from None
        if not isinstance(plain, dict):
            raise Damaged(f"it holds {json.dumps(plain)[:40]}, not a record")
        seal, schema = plain.pop(SEAL, None), plain.get(SCHEMA, 0)
        if not isinstance(schema, int) or isinstance(schema, bool):
            raise Damaged(f"its schema is {schema!r}, not a number")
        if seal is None and schema == self.unsealed:
            pass
        elif schema > self.schema:
            raise Damaged(f"its schema is {schema}; this version of scalelab reads {self.schema}")
        elif seal is None:
            raise Damaged("it carries no seal")
        elif schema != self.schema:
            raise Damaged(f"its schema is {schema}, not {self.schema}")
        elif seal != self._seal(plain):
            raise Damaged("its content is not what was written: the seal does not match")
        plain.pop(SCHEMA, None)
        return typed(self.type, plain)

    def refusal(self, path: Path, problem: object) -> ScalelabError:
        """The error about a file that does not hold."""
        return self.error(
            f"{path.name} cannot be read as a {self.noun}: {problem}", where=str(path), fix=self.fix
        )

    def _seal(self, plain: Mapping[str, Any]) -> str:
        try:
            text = json.dumps([self.noun, plain], sort_keys=True, separators=(",", ":"), allow_nan=False)
        except (ValueError, RecursionError) as error:
            raise Damaged(f"it holds a value that is no JSON: {error}") from None
        return _digest(text)


def typed(kind: type[Record], plain: dict[str, Any]) -> Record:
    """A record of JSON types as the dataclass that it was made from, every type checked.

    Raises:
        Damaged: A field is missing, unknown, or of another type.
    """
    from pydantic import TypeAdapter, ValidationError  # a tenth of a second; --help needs none

    assert is_dataclass(kind)
    known = {f.name for f in fields(kind)}
    needed = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}
    if missing := sorted(needed - set(plain)):
        raise Damaged(f"it has no {', '.join(missing)}")
    if unknown := sorted(set(plain) - known):
        raise Damaged(f"it has an unknown {unknown[0]!r}")
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    try:
        return _ADAPTERS[kind].validate_json(json.dumps(plain), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise Damaged(f"{where}: {first['msg']}, got {first['input']!r:.60}") from None


_ADAPTERS: dict[type, Any] = {}


def _plain(record: Any) -> dict[str, Any]:
    """A dataclass as JSON types: nested dataclasses as records, tuples as lists."""
    return {f.name: _value(getattr(record, f.name)) for f in fields(record)}


def _value(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(value)
    if isinstance(value, Mapping):
        return {key: _value(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_value(inner) for inner in value]
    if isinstance(value, str) and not value.isascii():
        # A file name that is not UTF-8 holds half a character, which no JSON reader takes back.
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return value


def _text_of(path: Path) -> str:
    """A file's text. Raises FileNotFoundError, NoAnswer, or Damaged where it cannot be read."""
    try:
        return read_regular(path).decode("utf-8")
    except FileNotFoundError:
        raise
    except UnicodeDecodeError:
        raise Damaged("it is not UTF-8 text") from None
    except OSError as error:
        if not is_answer(error):
            raise NoAnswer.of(path, error) from error
        raise Damaged(f"the system refuses: {error.strerror}") from None


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


# Lines of files that grow


class JournalLines(NamedTuple):
    """Records of a file that grows, from some place on."""

    records: list[dict[str, Any]]
    offset: int
    """Where to go on from, bytes."""
    n_bad: int
    """Complete lines that do not hold, and were skipped."""


def line(record: Mapping[str, Any]) -> str:
    """One record as a line that carries its checksum, newline included."""
    body = json.dumps(record, separators=(",", ":"))
    return f'{body[:-1]},"{CRC}":"{zlib.crc32(body.encode()):08x}"}}\n'


def read_lines(path: Path, offset: int = 0) -> JournalLines:
    """Complete lines of a file from byte `offset` on. No file reads as an empty one.

    A torn last line waits until it is ended. A line that a crash tore, or whose checksum does
    not match, is skipped and counted. Lines from before the checksums are recognised by the space
    after their first colon, and taken as they stand.
    """
    try:
        with open_regular(path) as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return JournalLines([], offset, 0)
    except OSError as error:
        if not is_answer(error):
            raise NoAnswer.of(path, error) from error
        raise RunError(
            f"{path.name} cannot be read: {error.strerror}",
            where=str(path),
            fix="give yourself permission to read it, or move away what stands in its place",
        ) from error
    end = data.rfind(b"\n") + 1
    records, n_bad = [], 0
    for written in data[:end].split(b"\n")[:-1]:
        record = record_of(written)
        if record is not None:
            records.append(record)
        elif written.strip():
            n_bad += 1
    return JournalLines(records, offset + end, n_bad)


def record_of(written: bytes) -> dict[str, Any] | None:
    """The record of one line; None where the line does not hold."""
    head = written[: written.find(b":") + 2]
    is_unsealed = head.endswith(b" ") and f'"{CRC}"'.encode() not in written
    if not is_unsealed:
        tail, written = written[-_TAIL:], written[:-_TAIL] + b"}"
        if tail != f',"{CRC}":"{zlib.crc32(written):08x}"}}'.encode():
            return None
    try:
        record = json.loads(written)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


# Text that people may read


def seal_text(text: str) -> str:
    """A YAML text with its seal as a comment on a last line of its own."""
    return f"{text}{_TEXT_MARK}{_digest(text)}\n"


def unseal_text(text: str) -> str:
    """The text under a seal; a text from before the seals as it stands. Raises Damaged."""
    body, mark, seal = text.rpartition(_TEXT_MARK)
    if not mark:
        if "seal" in text[-60:]:
            raise Damaged("its last line is not the seal that was written")
        return text
    if seal != f"{_digest(body)}\n":
        raise Damaged("its content is not what was written: the seal does not match")
    return body


# Files of bytes, whose digests stand in records


class Checksum:
    """XXH3-128 of bytes: finds damage, at ten times the speed of SHA-256, and names nothing.

    It is for checkpoints, which are written often and are large.
    """

    PREFIX = "xxh3-128:"

    def __init__(self, data: bytes = b""):
        import xxhash

        self._hash = xxhash.xxh3_128(data)

    def update(self, data: Any) -> None:
        """Further bytes."""
        self._hash.update(data)

    def hexdigest(self) -> str:
        """The checksum of all bytes so far, as it stands in records."""
        return self.PREFIX + self._hash.hexdigest()


def file_digest(path: Path, digest: Callable[[], Any] = hashlib.sha256) -> str:
    """SHA-256 of a file, hexadecimal, or its Checksum. Raises OSError."""
    with open_regular(path) as file:
        found = digest()
        while chunk := file.read(_CHUNK):
            found.update(chunk)
        return found.hexdigest()


def synced_digest(path: Path) -> str:
    """Return the digest of a file, taken while it is flushed to disk. Raises OSError."""
    found: list[str] = []

    def digest() -> None:
        found.append(file_digest(path))

    beside = threading.Thread(target=digest, name="digest")
    with open(path, "rb+") as file:
        beside.start()
        os.fsync(file.fileno())
    beside.join()
    return found[0] if found else file_digest(path)


def check_file(path: Path, digest: str) -> None:
    """Refuse a file that is not the one whose digest was written down. Raises Damaged or NoAnswer."""
    fast = digest.startswith(Checksum.PREFIX)
    try:
        there = file_digest(path, Checksum if fast else hashlib.sha256)
    except FileNotFoundError:
        raise Damaged(f"{path.name} is missing") from None
    except OSError as error:
        check_answered(path, error)
        raise Damaged(f"{path.name} cannot be read: {error.strerror}") from None
    if there != digest:
        kind = "checksum" if fast else "SHA-256"
        raise Damaged(f"{path.name} is not what was written: its {kind} does not match")
