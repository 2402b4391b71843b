"""Network file systems: for how long a machine may see an old state of a directory.

Rules for everything that several machines share (leases, journals, results):

- No flock: some servers have none, on others it holds on a single machine.
- A new name decides: a hard link, or a file opened with O_EXCL. The server answers, not a cache.
- Close-to-open: whoever opens a file after its writer has closed it reads all of it. A file is written
  under a draft's name, closed, and only then linked or renamed.
- The attribute cache: names, sizes and times may be old by `attribute_cache_s`. A lease expires after at
  least three times that (leases.expiry_s).
- Appends of two machines to one file may overwrite one another. Only the holder of a lease appends.
- An error of the file system (EIO, ESTALE, a server that is away) says nothing about the file: it is neither
  absent nor damaged. Nothing is concluded from it (files.NoAnswer).

Source: nfs(5), "Data and metadata coherence"; defaults of acregmax and acdirmax: 60 s.
Units: seconds.
"""

import errno
import re
from functools import cache
from pathlib import Path

MOUNTS = Path("/proc/self/mounts")
ACREGMAX_S = 60.0
"""Longest time for which an NFS client keeps attributes, if its mount does not set another."""
SSHFS_S = 20.0
"""Likewise of sshfs (cache_timeout)."""
SMB_S = 1.0
"""Likewise of SMB (actimeo)."""
ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})
"""Errors that say that there is no such file."""
_OF_THE_FILE = ABSENT | {errno.EACCES, errno.EPERM, errno.EISDIR, errno.EINVAL, errno.EFBIG, errno.ENXIO}
"""Errors that say something about a file; EINVAL and EFBIG are also ours (files.read_regular)."""
_AWAY = frozenset(
    getattr(errno, name)
    for name in ("EIO", "ESTALE", "ETIMEDOUT", "ENOTCONN", "EHOSTDOWN", "EREMOTEIO")
    if hasattr(errno, name)  # EREMOTEIO is Linux's
)
"""Errors of a file system that does not work or is away."""


def is_answer(error: OSError) -> bool:
    """Return whether an error says something about the file that was asked for, and not about its file system."""
    return error.errno in _OF_THE_FILE


def is_outage(error: OSError) -> bool:
    """Return whether an error says that a file system does not work or is away."""
    return error.errno in _AWAY


def attribute_cache_s(path: Path) -> float:
    """Return how old names and times may be that this machine sees below a path, seconds.

    0 for file systems of this machine, for those that keep all machines consistent (Lustre, GPFS, Ceph),
    and where the system has no list of mounts.
    """
    try:
        mounts = MOUNTS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0.0
    return _cache_s(mounts, str(path.absolute()))


@cache
def _cache_s(mounts: str, path: str) -> float:
    """See attribute_cache_s. The longest mount point that contains the path counts."""
    kind, options, best = "", "", -1
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 4:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[1]).rstrip("/")
        if (path == point or path.startswith(f"{point}/")) and len(point) >= best:
            kind, options, best = fields[2], fields[3], len(point)
    named = dict(option.partition("=")[::2] for option in options.split(","))
    if kind in {"nfs", "nfs4"}:
        if "noac" in named:
            return 0.0
        both = named.get("actimeo")
        return max(_seconds(named.get(name, both), ACREGMAX_S) for name in ("acregmax", "acdirmax"))
    if kind in {"cifs", "smb3"}:
        return _seconds(named.get("actimeo"), SMB_S)
    if kind == "fuse.sshfs":
        return SSHFS_S
    if kind.startswith("fuse") and "nfs" in kind:
        return ACREGMAX_S
    return 0.0


def _seconds(text: str | None, default: float) -> float:
    try:
        return default if text is None else float(text)
    except ValueError:
        return default
