"""The one process that writes to MLflow while a sweep runs, and `scalelab sync` after.

    python -m scalelab.track.sync ROOT SWEEP            until standard input closes
    python -m scalelab.track.sync ROOT SWEEP --once     one full pass

It follows a sweep's journals until its standard input closes (the sweep has ended, or died),
makes a last pass and leaves. Training never waits for it: a store that is down costs the
mirror some delay and training nothing. Passes are taken in turn, under one lock for all the
runs, so two sweeps, or a sweep and `scalelab sync`, never write at once.

Exit status: 0 mirrored, 2 a person has to mend something, 3 the store was down to the end.
"""

import argparse
import fcntl
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scalelab.errors import ScalelabError, TrackError
from scalelab.files import make_dir, writing
from scalelab.track.access import (
    FIRST_WAIT_S,
    LONGEST_WAIT_S,
    Refused,
    StoreDown,
    has_mlflow,
    not_taken,
    open_store,
    the_only_writer,
)
from scalelab.track.manifest import SweepManifest, list_sweeps
from scalelab.track.mirror import Mirror, Passed

if TYPE_CHECKING:
    from scalelab.track.mlflow_store import Store

POLL_S = 1.0
PATIENCE_S = 10.0
"""How long the last pass keeps trying a store that takes nothing at all."""
SYNC_PATIENCE_S = 10.0
"""The same for `scalelab sync`, where a person waits."""
BEHIND = "MLflow is behind: scalelab sync catches up (the runs themselves are complete)"


@dataclass
class Syncer:
    """A handle on the syncer process of one sweep."""

    _process: subprocess.Popen | None
    _log: Path

    @classmethod
    def start(cls, root: Path, sweep: str) -> "Syncer":
        """Start following a sweep. Without MLflow nothing is started, and finish says so."""
        log = make_dir(root / sweep) / "sync.log"
        if not has_mlflow():
            return cls(None, log)
        with writing(log), open(log, "ab") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "scalelab.track.sync", str(root), sweep],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out,
                start_new_session=True,  # an interrupt from the keyboard is not for it
            )
        return cls(process, log)

    def finish(self, timeout_s: float = PATIENCE_S + 60) -> str | None:
        """Let it make its last pass. None: mirrored; else a sentence for the person."""
        if self._process is None:
            return "MLflow is not installed: pip install mlflow, then scalelab sync"
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return f"{BEHIND}; it was still at it after {timeout_s:.0f} s"
        return None if code == 0 else f"{BEHIND}; why: {self._log}"


def sync(root: Path, sweep: str | None) -> str:
    """Bring MLflow up to date with one sweep, or with all. Returns what was done, in words.

    Raises:
        TrackError: MLflow is not installed, the store does not answer, or no such sweep.
    """
    names = list_sweeps(root) if sweep is None else [sweep]
    if not names:
        return f"no sweeps in {root}: nothing to mirror"
    lines, n_problems = [], 0
    for name in names:
        SweepManifest.load(root, name)
        try:
            done = catch_up(root, name, SYNC_PATIENCE_S, last=not _is_driven(root, name))
        except StoreDown as error:
            raise not_taken(root, error) from error
        moved = "1 run" if done.moved == 1 else f"{done.moved} runs"
        lines.append(f"{name}: {moved} brought up to date" if done.moved else f"{name}: up to date")
        lines += done.problems
        n_problems += len(done.problems)
    if n_problems:
        raise _not_all(n_problems, lines)
    return "\n".join(lines)


def catch_up(root: Path, sweep: str, patience_s: float, *, last: bool) -> Passed:
    """A full pass, begun again wherever the store drops it.

    Raises:
        StoreDown: The store took nothing at all for `patience_s` seconds.
    """
    moved, wait, deadline = 0, FIRST_WAIT_S, time.monotonic() + patience_s
    while True:
        mirror: Mirror | None = None
        try:
            with the_only_writer(root, patience_s):
                mirror = Mirror(root, sweep, open_store(root))
                done = mirror.pass_over(last=last)
                return Passed(moved + done.moved, done.problems)
        except (StoreDown, Refused) as error:
            if mirror is not None and mirror.sent:
                moved += mirror.sent
                wait, deadline = FIRST_WAIT_S, time.monotonic() + patience_s
            if time.monotonic() + wait > deadline:
                raise StoreDown(str(error)) from error
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT_S)


def _not_all(n_problems: int, lines: Sequence[str]) -> TrackError:
    return TrackError(
        f"{n_problems} runs could not be mirrored; all others are",
        where="\n         ".join(lines),
        fix="mend these, then: scalelab sync",
    )


def _is_driven(root: Path, sweep: str) -> bool:
    """Whether some process is training the sweep at this moment."""
    try:
        with open(root / sweep / "lock", "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def follow(root: Path, sweep: str, patience_s: float) -> None:
    """Mirror until standard input closes, and then all that is left.

    Raises:
        TrackError: MLflow is not installed, or runs could not be mirrored.
        StoreDown: The store was down from the end on, for `patience_s` seconds.
    """
    mirror: Mirror | None = None
    opened: Store | None = None  # the first of this process: MLflow keeps its connection
    said, wait = None, 0.0
    while not _input_closed(wait):
        _start_over_if_gone(opened)
        try:
            with the_only_writer(root, POLL_S):
                if mirror is None:
                    mirror = Mirror(root, sweep, store := open_store(root))
                    opened = opened or store
                mirror.pass_over()
            wait = POLL_S
        except (StoreDown, Refused) as error:
            mirror, wait = None, min(max(2 * wait, POLL_S), LONGEST_WAIT_S)
            if str(error) != said:
                said = str(error)
                print(f"{time.strftime('%F %T')} {said}", file=sys.stderr, flush=True)
    _start_over_if_gone(opened)
    _finish(root, sweep, patience_s, last=True)


def _finish(root: Path, sweep: str, patience_s: float, *, last: bool) -> None:
    done = catch_up(root, sweep, patience_s, last=last)
    if done.problems:
        raise _not_all(len(done.problems), done.problems)


def _start_over_if_gone(store: "Store | None") -> None:
    """Where the database was deleted, be a new process: MLflow holds on to the nameless file."""
    if store is not None and store.is_gone:
        os.execv(sys.executable, [sys.executable, "-m", __spec__.name, *sys.argv[1:]])


def _input_closed(wait_s: float) -> bool:
    ready, _, _ = select.select([sys.stdin], [], [], wait_s)
    return bool(ready) and not os.read(sys.stdin.fileno(), 4096)


def main() -> int:
    """The process. Returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m scalelab.track.sync", description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("sweep")
    parser.add_argument("--once", action="store_true", help="one full pass")
    parser.add_argument("--patience", type=float, default=PATIENCE_S, metavar="SECONDS")
    args = parser.parse_args()
    os.nice(max(0, 10 - os.nice(0)))  # training comes first
    try:
        if args.once:
            last = not _is_driven(args.root, args.sweep)
            _finish(args.root, args.sweep, args.patience, last=last)
        else:
            follow(args.root, args.sweep, args.patience)
    except StoreDown as error:
        print(f"error: {not_taken(args.root, error)}", file=sys.stderr)
        return 3
    except ScalelabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
