"""A file server, with every state that its files have had.

Units: seconds, bytes. Not here: what a machine sees of it (simulated.py).
"""

import errno
import os
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from simulated_kernel import Kernel

EPOCH = 1.7e9
"""Seconds since 1970 at which every simulation begins."""

FORGOTTEN_S = 1000.0
"""Time after which no host sees a removed name any more."""


class State(NamedTuple):
    """A file at some time."""

    since: float
    file: int | None
    """Which file has the name; None: there is none."""
    mtime: float


@dataclass
class Server:
    """Files by name, with their history."""

    kernel: Kernel
    skew_s: float = 0.0
    full: list[tuple[float, float]] = field(default_factory=list)
    """When there is no room."""
    names: dict[str, list[State]] = field(default_factory=dict)
    data: list[bytes] = field(default_factory=list)
    by_directory: dict[str, dict[str, None]] = field(default_factory=lambda: defaultdict(dict))
    """Names in the order in which they came: some of them are random."""

    def state(self, path: Path, at: float | None = None) -> State | None:
        """Return the state of a name, now or at some time; None: it does not exist."""
        for state in reversed(self.names.get(str(path), ())):
            if at is None or state.since <= at:
                return state if state.file is not None else None
        return None

    def put(self, path: Path, file: int | None) -> None:
        """Change a name, or the time of what has it."""
        now = self.kernel.now
        name = str(path)
        self.names.setdefault(name, []).append(State(now, file, EPOCH + now + self.skew_s))
        self.by_directory[name.rpartition("/")[0]][name] = None

    def known(self, directory: Path) -> list[str]:
        """Return the names of a directory that anyone may still see."""
        there = self.by_directory[str(directory)]
        for name in list(there):
            last = self.names[name][-1]
            if last.file is None and last.since < self.kernel.now - FORGOTTEN_S:
                del there[name]
        return list(there)

    def new(self, data: bytes) -> int:
        """Return the number of a new file."""
        self.data.append(data)
        return len(self.data) - 1

    def need_room(self) -> None:
        """Raise OSError while the disk is full."""
        if any(begin <= self.kernel.now < end for begin, end in self.full):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
