"""Leases: which one process may write in a directory, on whatever machine it runs.

    <directory>/<name>-000003.json     the third claim: who holds it, renewed while it is held

A claim is a new file with the next number, created under its final name in one step, so of several
claimants one succeeds. The claim with the largest number counts. It is free to be followed by the
next one when it was released, when its process has ended on this machine, or when its heartbeat
(the file's time of modification) is older than its `ttl_s`. Both times of that comparison are given
by the file system's own clock, so machines whose clocks disagree, agree here. No flock is used:
some network file systems have none.

A holder that was suspended for longer than `ttl_s` may find that another has followed: call `check`
before every write.

Units: seconds. Not here: what is done under a lease.
"""

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

from scalelab.errors import LaunchError, ScalelabError
from scalelab.files import machine, make_dir, process_start, refuse_link, sweep_partials, write_new
from scalelab.sealed import Format

TTL_S = 60.0
"""Without a heartbeat for so long a holder on another machine counts as gone."""
BEATS = 4
"""Heartbeats within that time."""


@dataclass(frozen=True)
class Claim:
    """The holder of a lease: the content of its file."""

    attempt: int
    """Its number: how often the directory was claimed, this time included."""
    nonce: str
    """Distinguishes this claim from every other."""
    host: str
    """The machine's name, for eyes."""
    machine: str
    """Which machine, boot and process numbering (files.machine)."""
    pid: int
    started: int
    """When the process began (files.process_start)."""
    ttl_s: float
    released: bool = False


CLAIM = Format("lease", Claim, schema=1)


class LeaseTaken(LaunchError):
    """The lease is held by another process, or has been taken over by one."""


class Lease:
    """A claim that this process holds. Made by `claim`.

    Args:
        directory: What is claimed.
        name: Of the lease, where a directory has several.
        held: The claim.
    """

    def __init__(self, directory: Path, name: str, held: Claim):
        self.directory, self.name, self.held = directory, name, held
        self.path = numbered(directory, name, held.attempt)
        self._next = numbered(directory, name, held.attempt + 1)
        self._ended = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._beating.start()

    def check(self) -> None:
        """Make sure that the lease is still ours, before a write.

        Raises:
            Taken: Another process has followed.
        """
        if not self.is_ours():
            raise LeaseTaken(
                f"the lease of {self.directory.name} was taken over by another process: this one "
                "had given no sign of life",
                where=str(self.path),
                fix="nothing is lost: the other process resumes from the newest checkpoint",
            )

    def is_ours(self) -> bool:
        """Whether no later claim has followed."""
        return self.path.exists() and not self._next.exists()

    def _beat(self) -> None:
        while not self._ended.wait(self.held.ttl_s / BEATS):
            if not self.is_ours():
                return
            with suppress(OSError):  # a disk that is away for a moment: the next beat may succeed
                os.utime(self.path)

    def release(self) -> None:
        """Let go of it, so that the next claim need not wait."""
        self._ended.set()
        if self.is_ours():
            with suppress(ScalelabError):  # a full disk: it runs out by itself
                CLAIM.write(self.path, replace(self.held, released=True))


def claim(directory: Path, name: str = "lease", ttl_s: float = TTL_S) -> Lease | None:
    """Claim a directory; None where another process holds it.

    Raises:
        RunError: The directory cannot be written.
    """
    make_dir(directory)
    while True:
        attempt, holder = _newest(directory, name)
        if holder is not None:
            return None
        held = Claim(
            attempt=attempt + 1,
            nonce=uuid4().hex[:16],
            host=os.uname().nodename,
            machine=machine(),
            pid=os.getpid(),
            started=process_start(os.getpid()) or 0,
            ttl_s=ttl_s,
        )
        path = numbered(directory, name, held.attempt)
        if not write_new(path, CLAIM.text(held), flush=False):
            continue  # another process was faster; look at its claim
        there = numbers(directory, name)
        if max(there, default=0) > held.attempt:
            # We looked long ago: others have followed one another since, and swept after them.
            path.unlink(missing_ok=True)
            continue
        for old in there:
            if old < held.attempt:
                numbered(directory, name, old).unlink(missing_ok=True)
        for drafts in (f"{name}-*", "clock"):
            sweep_partials(directory, drafts)
        return Lease(directory, name, held)


def holder(directory: Path, name: str = "lease") -> Claim | None:
    """The claim that holds a directory's lease at this moment; None where it is free."""
    return _newest(directory, name)[1]


def abandoned(directory: Path, name: str = "lease") -> Claim | None:
    """The newest claim where its process vanished without releasing it; None where it did not, or may live."""
    attempt = max(numbers(directory, name), default=0)
    if attempt == 0 or _newest(directory, name)[1] is not None:
        return None
    try:
        newest = CLAIM.read(numbered(directory, name, attempt))
    except (FileNotFoundError, ScalelabError):
        return None
    return None if newest.released else newest


@contextmanager
def hold(path: Path, problem: str, fix: str, *, wait_s: float = 0.0, ttl_s: float = TTL_S) -> Iterator[Lease]:
    """Hold the lease `path.name` of the directory `path.parent`.

    Args:
        path: Directory and name in one: runs/sweep/lock.
        problem: What to say where another process holds it.
        fix: What to do then.
        wait_s: How long to wait for it; infinity waits for as long as it takes.
        ttl_s: See Claim.

    Raises:
        Taken: Another process holds it; the message names that process.
        RunError: The directory cannot be written.
    """
    deadline = time.monotonic() + wait_s
    while (lease := claim(path.parent, path.name, ttl_s)) is None:
        if time.monotonic() >= deadline:
            who = holder(path.parent, path.name)
            by = "another process" if who is None else f"process {who.pid} on {who.host}"
            raise LeaseTaken(problem, where=f"{path}, held by {by}", fix=fix)
        time.sleep(0.05)
    try:
        yield lease
    finally:
        lease.release()


def follows(directory: Path, name: str, attempt: int) -> Callable[[], None]:
    """What a child process calls before a write where its parent holds the lease.

    Args:
        directory: What is claimed.
        name: Of the lease.
        attempt: The number of the parent's claim.

    Returns: As Lease.check.
    """
    path, after = numbered(directory, name, attempt), numbered(directory, name, attempt + 1)

    def check() -> None:
        if not path.exists() or after.exists():
            raise LeaseTaken(
                f"the lease of {directory.name} was taken over by another process",
                where=str(path),
                fix="nothing is lost: the other process resumes from the newest checkpoint",
            )

    return check


def numbered(directory: Path, name: str, attempt: int) -> Path:
    """The file of one claim."""
    return directory / f"{name}-{attempt:06d}.json"


def numbers(directory: Path, name: str) -> list[int]:
    """The numbers of the claims that are there, in no order."""
    pattern = re.compile(rf"{re.escape(name)}-(\d{{6,}})\.json")
    try:
        found = [pattern.fullmatch(entry) for entry in os.listdir(directory)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [int(match[1]) for match in found if match]


def _newest(directory: Path, name: str) -> tuple[int, Claim | None]:
    """The number of the newest claim, 0 without one; and the claim, where it still holds.

    Raises:
        RunError: It is a symbolic link.
    """
    while True:
        attempt = max(numbers(directory, name), default=0)
        if attempt == 0:
            return 0, None
        path = numbered(directory, name, attempt)
        refuse_link(path)
        try:
            beat = path.stat().st_mtime
            found: Claim | None = CLAIM.read(path)
        except FileNotFoundError:
            continue  # swept by its follower, a moment ago
        except ScalelabError:
            found = None  # damaged: its heartbeat still shows whether it is held
        if found is None:
            unknown = Claim(attempt, "", "an unknown machine", "", 0, 0, TTL_S)
            return attempt, unknown if _age(directory, beat) <= TTL_S else None
        return attempt, None if _is_free(directory, found, beat) else found


def _is_free(directory: Path, found: Claim, beat: float) -> bool:
    if found.released:
        return True
    if found.machine == machine() and process_start(found.pid) != found.started:
        return True
    return _age(directory, beat) > found.ttl_s


def _age(directory: Path, beat: float) -> float:
    """Seconds since a heartbeat, by the clock of the file system that recorded it."""
    if time.time() - beat <= TTL_S / BEATS and beat <= time.time():
        return time.time() - beat  # so fresh by our clock that no other could make it stale
    probe = directory / f".clock.{threading.get_ident()}.{machine()}.{os.getpid()}.partial"
    try:
        probe.touch()
        return probe.stat().st_mtime - beat
    except OSError:
        return time.time() - beat  # read-only: our own clock is all there is
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
