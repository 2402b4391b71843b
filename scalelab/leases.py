"""Leases: which one process may write in a directory, on whatever machine it runs.

    <directory>/<name>-000003.json     the third claim: who holds it, renewed while it is held

A claim is a new file with the next number, created under its final name in one step, so of several
claimants one succeeds. The claim with the largest number counts. It is free to be followed by the
next one when it was released, when its process has ended on this machine, or when its heartbeat
(the file's time of modification) is older than its `ttl_s`. Both times of that comparison are given
by the file system's own clock, so machines whose clocks disagree, agree here. No flock is used:
some network file systems have none.

A holder that was suspended for longer than `ttl_s` may find that another has followed: call `check`
before every write. Between the check and the write it may be suspended again, so what must be written
by one holder and once is given its place by `publish`: the holder takes the next number as a claimant
would, with a claim that names the file. Either that claim or a follower's gets the number. Whoever
claims the directory next, or the holder itself, gives the file its name.

On a network file system a process may see names and times that are out of date (network_files.py). A new
name is decided by the server, so two claims never get one number; and a heartbeat that is seen late by a
third of `ttl_s` is still younger than that.

Units: seconds. Not here: what is done under a lease.
"""

import errno
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

from scalelab.errors import LaunchError, RunError, ScalelabError
from scalelab.files import (
    NoAnswer,
    exists,
    link_new,
    looking,
    machine,
    make_dir,
    names_in,
    process_start,
    refuse_link,
    sweep_partials,
    write_new,
    write_text,
)
from scalelab.network_files import attribute_cache_s
from scalelab.sealed import Format
from scalelab.system import clock as time
from scalelab.system import system

TTL_S = 60.0
"""Without a heartbeat for so long a holder on another machine counts as gone."""
BEATS = 4
"""Heartbeats within that time."""
CACHES = 3
"""Least time without a heartbeat, in times for which the file system may show an old one."""
RETRY_S = 0.05
"""Seconds between two looks at a lease that another process is claiming or holds."""
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
"""Where no file can be made, this machine's clock is all there is."""


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
    publishes: str | None = None
    """Name of a file that the claim before this one, of the same holder, has written as a draft. With this
    claim it is to have its name, whatever becomes of the holder."""


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
        system().spawn(self._beat, "lease")

    def check(self) -> None:
        """Make sure that the lease is still ours, before a write.

        Raises:
            LeaseTaken: Another process has followed.
            RunError: The file system does not answer.
        """
        with looking(self.path):
            is_ours = self.is_ours()
        if not is_ours:
            raise self._taken()

    def _taken(self) -> LeaseTaken:
        return LeaseTaken(
            f"the lease of {self.directory.name} was taken over by another process: this one "
            "had given no sign of life",
            where=str(self.path),
            fix="nothing is lost: the other process resumes from the newest checkpoint",
        )

    def is_ours(self) -> bool:
        """Whether no later claim has followed."""
        return system().exists(self.path) and not system().exists(self._next)

    def publish(self, path: Path, text: str) -> bool:
        """Write a file of the directory that only the holder may write, and once. False: it is there.

        A holder that was followed does not write it, wherever in this function it was suspended.

        Args:
            path: In the directory.
            text: Its whole content.

        Raises:
            LeaseTaken: Another process has followed.
            RunError: The directory cannot be written.
        """
        if exists(path):
            return False
        self.check()
        write_text(_draft(self.directory, self.name, path.name, self.held.attempt), text)
        following = replace(self.held, attempt=self.held.attempt + 1, publishes=path.name)
        if not _take(self.directory, self.name, following):
            raise self._taken()
        self.held = following
        self.path, self._next = self._next, numbered(self.directory, self.name, following.attempt + 1)
        return _give_name(self.directory, self.name, following)

    def _beat(self) -> None:
        while not system().wait(self._ended, self.held.ttl_s / BEATS):
            with suppress(OSError):  # a disk that is away for a moment: the next beat may succeed
                if not self.is_ours():
                    return
                system().renew(self.path)

    def release(self) -> None:
        """Let go of it, so that the next claim need not wait."""
        self._ended.set()
        with suppress(OSError, ScalelabError):  # a full disk: it runs out by itself
            if self.is_ours():
                CLAIM.write(self.path, replace(self.held, released=True))


def claim(directory: Path, name: str = "lease", ttl_s: float | None = None) -> Lease | None:
    """Claim a directory; None where another process holds it.

    Args:
        directory: Made where it is missing.
        name: Of the lease.
        ttl_s: See Claim. None: as the file system needs (`expiry_s`).

    Raises:
        RunError: The directory cannot be written.
    """
    make_dir(directory)
    ttl_s = expiry_s(directory) if ttl_s is None else ttl_s
    while True:
        attempt, found, is_held = _read_newest(directory, name)
        if is_held:
            return None
        if found is not None and found.publishes is not None:
            _give_name(directory, name, found)
        held = Claim(
            attempt=attempt + 1,
            nonce=uuid4().hex[:16],
            host=system().host(),
            machine=machine(),
            pid=system().pid(),
            started=process_start(system().pid()) or 0,
            ttl_s=ttl_s,
        )
        if not _take(directory, name, held):
            # Another process was faster; look at its claim, which may take a moment to be seen here.
            time.sleep(RETRY_S)
            continue
        for old in numbers(directory, name):
            if old < held.attempt:
                with suppress(OSError):  # swept by another, or by the next claim
                    system().unlink(numbered(directory, name, old))
        for drafts in (f"{name}-*", "clock"):
            sweep_partials(directory, drafts)
        return Lease(directory, name, held)


def expiry_s(directory: Path) -> float:
    """Time without a heartbeat after which a holder counts as gone, for a directory, seconds.

    At least CACHES times as long as its file system may show an old heartbeat.
    """
    return max(TTL_S, CACHES * attribute_cache_s(directory))


def _take(directory: Path, name: str, held: Claim) -> bool:
    """Write a claim under its number, unless the number was taken or passed. True: it counts."""
    path = numbered(directory, name, held.attempt)
    if not write_new(path, CLAIM.text(held), flush=held.publishes is not None):
        return False
    if max(numbers(directory, name), default=0) > held.attempt:
        # We looked long ago: others have followed one another since, and swept after them.
        with suppress(OSError):  # a smaller number than the newest says nothing
            system().unlink(path)
        return False
    return True


def _draft(directory: Path, name: str, file: str, attempt: int) -> Path:
    """Where a claim's holder writes a file that it is going to publish."""
    return directory / f".{file}.{name}-{attempt:06d}.draft"


def _give_name(directory: Path, name: str, found: Claim) -> bool:
    """Give the file that a claim publishes its name. False: it has been given already."""
    assert found.publishes is not None
    path = directory / found.publishes
    draft = _draft(directory, name, found.publishes, found.attempt - 1)
    try:
        is_new = link_new(draft, path)
    except RunError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        is_new = False  # it was given its name, and the draft is gone
    with suppress(OSError):
        system().unlink(draft)
    return is_new


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
def hold(
    path: Path, problem: str, fix: str, *, wait_s: float = 0.0, ttl_s: float | None = None
) -> Iterator[Lease]:
    """Hold the lease `path.name` of the directory `path.parent`.

    Args:
        path: Directory and name in one: runs/sweep/lock.
        problem: What to say where another process holds it.
        fix: What to do then.
        wait_s: How long to wait for it; infinity waits for as long as it takes.
        ttl_s: See Claim.

    Raises:
        LeaseTaken: Another process holds it; the message names that process.
        RunError: The directory cannot be written.
    """
    deadline = time.monotonic() + wait_s
    while (lease := claim(path.parent, path.name, ttl_s)) is None:
        if time.monotonic() >= deadline:
            who = holder(path.parent, path.name)
            by = "another process" if who is None else f"process {who.pid} on {who.host}"
            raise LeaseTaken(problem, where=f"{path}, held by {by}", fix=fix)
        time.sleep(RETRY_S)
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

    def is_published(by: Path) -> bool:
        """Whether the later claim is the parent's own, which publishes the result."""
        try:
            return CLAIM.read(by).nonce == CLAIM.read(path).nonce
        except NoAnswer:
            raise
        except (FileNotFoundError, ScalelabError):
            return False

    def check() -> None:
        if not exists(path) or (exists(after) and not is_published(after)):
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
    """The numbers of the claims that are there, in no order. Raises NoAnswer."""
    pattern = re.compile(rf"{re.escape(name)}-(\d{{6,}})\.json")
    found = [pattern.fullmatch(entry) for entry in names_in(directory)]
    return [int(match[1]) for match in found if match]


def _newest(directory: Path, name: str) -> tuple[int, Claim | None]:
    """The number of the newest claim, 0 without one; and the claim, where it still holds. Raises as _read_newest."""
    attempt, found, is_held = _read_newest(directory, name)
    return attempt, found if is_held else None


def _read_newest(directory: Path, name: str) -> tuple[int, Claim | None, bool]:
    """Return the number of the newest claim (0 without one), the claim, and whether it still holds.

    Raises:
        RunError: It is a symbolic link.
    """
    while True:
        attempt = max(numbers(directory, name), default=0)
        if attempt == 0:
            return 0, None, False
        path = numbered(directory, name, attempt)
        refuse_link(path)
        try:
            found = CLAIM.read(path)
        except FileNotFoundError:
            time.sleep(RETRY_S)
            continue  # swept by its follower, a moment ago
        except ScalelabError:  # damaged: its heartbeat still shows whether it is held
            found = Claim(attempt, "", "an unknown machine", "", 0, 0, expiry_s(directory))
        try:
            with looking(path):
                return attempt, found, not _is_free(directory, found, path)
        except FileNotFoundError:
            continue


def _is_free(directory: Path, found: Claim, path: Path) -> bool:
    if found.released:
        return True
    if found.machine == machine() and process_start(found.pid) != found.started:
        return True
    # The holder's mount may keep times for less long than this machine's.
    return _age(directory, path) > max(found.ttl_s, CACHES * attribute_cache_s(directory))


def _age(directory: Path, path: Path) -> float:
    """Seconds since the heartbeat of a claim, by the clock of the file system that recorded it.

    The clock is read before the heartbeat, so that a process that is suspended in between sees the claim
    younger than it is. 0 where that clock cannot be asked at the moment.
    """
    now = time.time()
    if 0 <= (age := now - system().mtime(path)) <= TTL_S / BEATS:
        return age  # so fresh by our clock that no other could make it stale
    probe = directory / f".clock.{threading.get_ident()}.{machine()}.{system().pid()}.partial"
    try:
        system().touch(probe)
        now = system().mtime(probe)
    except OSError as error:
        if error.errno not in _READ_ONLY:
            return 0.0
    finally:
        with suppress(OSError):
            system().unlink(probe)
    return now - system().mtime(path)
