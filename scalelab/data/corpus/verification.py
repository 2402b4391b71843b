"""Verification of a corpus's files: each is read and hashed once on a machine, not by every worker.

    <cache>/stamps/<corpus>-<host>.json    sealed: the files whose SHA-256 was found to be right

A stamp holds inode, size, time of modification and time of change of each file. A file that still
has all four is not read again; any other one is. Only the host's name identifies a machine: it
stays the same from boot to boot, while the device number of a network disk changes with every
mount, and would have 100 GB read again for nothing. A copied cache has other inodes, so it is
verified again. Machines that share a name share their stamps.

A missing, damaged or outdated stamp only means verifying again. Where the cache cannot be written,
each process verifies what it reads. A disk that changes bytes without touching the times is not
noticed after the stamp is made: delete the directory of stamps to have everything read again.
"""

import hashlib
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path

from scalelab.data.corpus.manifest import damaged_corpus, signatures
from scalelab.data.corpus.token_files import CorpusFile
from scalelab.errors import DataError, RunError
from scalelab.leases import hold
from scalelab.screen import progress
from scalelab.sealed import Damaged, Format, check_file

_THREADS = 4  # hashing leaves the interpreter's lock alone; four keep up with a common disk
_SHOW_BYTES = 2 * 10**9  # hashing less than this takes no time worth a progress bar

Signature = tuple[int, int, int, int]
"""See manifest.signatures."""


@dataclass(frozen=True)
class VerificationStamp:
    """Files of a corpus that were verified on a machine."""

    corpus: str
    """The corpus's digest."""
    host: str
    files: dict[str, Signature]


STAMP = Format("verification stamp", VerificationStamp, schema=1, error=DataError)

_VERIFIED: dict[Path, dict[str, Signature]] = {}
"""What this process knows, by corpus directory: spares it the stamp, or stands in for one."""


def verify(directory: Path, files: Mapping[str, CorpusFile]) -> None:
    """Refuse files of a corpus that are not what was written.

    Of several processes that come at the same time, one reads the files and the others wait.

    Args:
        directory: <cache>/corpora/<digest>.
        files: What to verify, as in the manifest.

    Raises:
        DataError: A file is missing or does not match its SHA-256.
    """
    try:
        if not _unverified(directory, files):
            return
        lock = _cache(directory) / "locks" / f"verify-{_stamp_path(directory).stem}"
        try:
            with hold(lock, "another process verifies this corpus", "wait for it", wait_s=inf):
                if todo := _unverified(directory, files):
                    _check(directory, todo)
                    _write(directory)
        except RunError:  # read-only, or full: there is neither a lease nor a stamp
            _check(directory, _unverified(directory, files))
    except Damaged as damage:
        raise damaged_corpus(directory, damage) from None


def stamp_as_written(directory: Path, files: Mapping[str, CorpusFile]) -> None:
    """Stamp files that this process has just written, their digests computed on the way."""
    _VERIFIED[directory.absolute()] = signatures(directory, files)
    _write(directory)


def _unverified(directory: Path, files: Mapping[str, CorpusFile]) -> dict[str, CorpusFile]:
    """Those of the files that must be read. Raises Damaged where one is missing."""
    now = signatures(directory, files)
    known = _VERIFIED.setdefault(directory.absolute(), {})
    if any(known.get(name) != signature for name, signature in now.items()):
        stamped = _read(directory).items()
        known.update({name: s for name, s in stamped if name not in now or s == now[name]})
    return {name: files[name] for name, signature in now.items() if known.get(name) != signature}


def _check(directory: Path, files: Mapping[str, CorpusFile]) -> None:
    """Hash files and remember those that hold. Raises Damaged for the first that does not."""
    before = signatures(directory, files)

    def check(name: str) -> str:
        check_file(directory / name, files[name].sha256)
        return name

    with ThreadPoolExecutor(_THREADS) as pool:
        checked = pool.map(check, files)
        if sum(file.bytes for file in files.values()) > _SHOW_BYTES:
            checked = progress(checked, "verifying the corpus", len(files))
        for _ in checked:
            pass
    for name, signature in signatures(directory, files).items():
        if signature != before[name]:
            raise Damaged(f"{name} changed while it was read")
    _VERIFIED.setdefault(directory.absolute(), {}).update(before)


def _read(directory: Path) -> dict[str, Signature]:
    """What the stamp says; nothing where there is none to believe."""
    try:
        stamp = STAMP.read(_stamp_path(directory))
    except (FileNotFoundError, DataError):
        return {}
    is_ours = stamp.corpus == directory.name and stamp.host == socket.gethostname()
    return stamp.files if is_ours else {}


def _write(directory: Path) -> None:
    """Keep what is known for the other processes of this machine, where that can be written."""
    known = _VERIFIED[directory.absolute()]
    with suppress(RunError):
        stamp = VerificationStamp(directory.name, socket.gethostname(), known)
        STAMP.write(_stamp_path(directory), stamp)


def _stamp_path(directory: Path) -> Path:
    host = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
    return _cache(directory) / "stamps" / f"{directory.name}-{host}.json"


def _cache(directory: Path) -> Path:
    return directory.parent.parent
