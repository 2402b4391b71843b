"""Numbers that look random and are the same everywhere: hashes of text, files and counters.

Nothing here draws from numpy's generators, whose streams may change between versions
(NEP 19). A document's side, a window's place and a synthetic token all come from `mix`.

Source: Steele, Lea and Flood 2014, SplitMix64 (the finaliser, variant 13 of D. Stafford).
"""

import hashlib
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scalelab.data.files.opening import open_source, unreadable
from scalelab.errors import DataError
from scalelab.screen import progress
from scalelab.sealed import Format

U64 = np.uint64
_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15
_SHOW_BYTES = 2 * 10**9  # hashing less than this takes no time worth a progress bar
_RACY_NS = 2 * 10**9  # coarsest clock of a common file system (FAT: 2 s)


def mix(x: np.ndarray) -> np.ndarray:
    """A bijection of uint64 whose every output bit depends on every input bit."""
    x = x ^ (x >> U64(30))
    x = x * U64(0xBF58476D1CE4E5B9)
    x = x ^ (x >> U64(27))
    x = x * U64(0x94D049BB133111EB)
    return x ^ (x >> U64(31))


def key(*parts: int) -> np.ndarray:
    """One uint64, shape (1,), that depends on every part and on their order."""
    state = np.zeros(1, U64)
    for part in parts:
        state = mix(state + np.array([(part + _GOLDEN) & _MASK], U64))
    return state


def content_hash(data: bytes) -> int:
    """64 bits that name a text."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def draw_documents(content: np.ndarray, n_bytes: np.ndarray, wanted: float, draw: int) -> np.ndarray:
    """Choose documents of about so many bytes, by a hash of their texts, as a mask of shape (n,).

    Fewer bytes are a part of more, and equal texts are chosen or not together.

    Args:
        content: Hashes of the texts, uint64, shape (n,).
        n_bytes: Their sizes, shape (n,).
        wanted: Bytes to choose.
        draw: Number of the draw: different ones choose independently.
    """
    rank = mix(content ^ key(draw))
    order = np.argsort(rank, kind="stable")
    ends = np.cumsum(n_bytes[order])
    # The document in which the wanted bytes end is taken where that comes nearer to them.
    chosen = np.zeros(len(content), bool)
    count = int(np.searchsorted(ends - n_bytes[order] / 2, wanted))
    if count:
        chosen = rank <= rank[order[count - 1]]
    return chosen


def drawn_share(seed: str, i: int) -> float:
    """The i-th of a row of numbers between 0 and 1 that are drawn evenly."""
    said = hashlib.sha256(f"{seed}:{i}".encode()).digest()
    return int.from_bytes(said[:6], "big") / 2**48


def sha256(path: Path) -> str:
    """The sha256 of a regular file, in hex. Raises DataError where it cannot be read, or is another."""
    try:
        with open_source(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path, error) from error


def utf8_name(name: object) -> str:
    """Return the name of a file as UTF-8; bytes of it that are not are escaped."""
    return str(name).encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True)
class HashMemo:
    """Content of a memo of source files."""

    files: dict[str, tuple[str, int, int, int, int]]
    """By path: sha256, inode, size, time of modification and time of change, the times in ns."""


MEMO = Format("memo of source hashes", HashMemo, schema=2, error=DataError)


class FileHashes:
    """sha256 of files, remembered between commands.

    A file counts as unchanged when its inode, size, mtime and ctime are. A file touched so
    recently that a second change could hide behind the same times is not remembered.
    """

    def __init__(self, memo: Path):
        self._path = memo
        self._has_news = False
        try:
            self._known = MEMO.read(memo).files
        except (FileNotFoundError, DataError):
            self._known = {}  # absent, damaged or from before the seals: it only saves time

    def __call__(self, path: Path) -> str:
        """The sha256 of a file, in hex."""
        try:
            stat = path.stat()
        except OSError as error:
            raise unreadable(path, error) from error
        stamp = (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        name = utf8_name(path.absolute())
        known = self._known.get(name)
        if known is not None and known[1:] == stamp:
            return known[0]
        began = time.time_ns()
        digest = sha256(path)
        if max(stat.st_mtime_ns, stat.st_ctime_ns) < began - _RACY_NS:
            self._known[name] = (digest, *stamp)
            self._has_news = True
        return digest

    def save(self) -> None:
        """Keep what was read anew for the next command."""
        if self._has_news:
            MEMO.write(self._path, HashMemo(self._known))
            self._has_news = False


def fingerprint_of(files: Iterable[tuple[str, Path]], hash_file) -> str:
    """Hex digits that name the contents of files: over (name, sha256, size), sorted by name."""
    try:
        sized = sorted((name, path, path.stat().st_size) for name, path in files)
    except OSError as error:
        raise unreadable(Path(error.filename), error) from error
    is_long = sum(size for _, _, size in sized) > _SHOW_BYTES
    total = hashlib.sha256()
    for name, path, size in progress(sized, "hashing the source") if is_long else sized:
        total.update(json.dumps([name, hash_file(path), size]).encode() + b"\n")
    return total.hexdigest()
