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
from dataclasses import dataclass
from pathlib import Path

from scalelab.errors import ScalelabError, TrackError
from scalelab.files import make_dir, writing
from scalelab.track.access import (
    LONGEST_WAIT_S,
    Refused,
    StoreDown,
    has_mlflow,
    insist,
    not_taken,
    open_store,
    the_only_writer,
)
from scalelab.track.manifest import SweepManifest, list_sweeps
from scalelab.track.mirror import Mirror, Passed

POLL_S = 1.0
PATIENCE_S = 30.0
"""How long the last pass keeps trying a store that is down."""
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
        try:
            done = insist(lambda name=name: _one_pass(root, name), SYNC_PATIENCE_S)
        except (StoreDown, Refused) as error:
            raise not_taken(root, error) from error
        moved = "1 run" if done.moved == 1 else f"{done.moved} runs"
        lines.append(f"{name}: {moved} brought up to date" if done.moved else f"{name}: up to date")
        lines += done.problems
        n_problems += len(done.problems)
    if n_problems:
        raise TrackError(
            f"{n_problems} runs could not be mirrored; all others are",
            where="\n         ".join(lines),
            fix="mend these, then run `scalelab sync` again",
        )
    return "\n".join(lines)


def _one_pass(root: Path, sweep: str) -> Passed:
    SweepManifest.load(root, sweep)
    with the_only_writer(root, SYNC_PATIENCE_S):
        mirror = Mirror(root, sweep, open_store(root))
        return mirror.pass_over(last=not _is_driven(root, sweep))


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


def follow(root: Path, sweep: str, patience_s: float, once: bool = False) -> None:
    """Mirror until standard input closes, or only once.

    Raises:
        TrackError: MLflow is not installed, or runs could not be mirrored.
        StoreDown: The store was down from the end on, for `patience_s` seconds.
    """
    os.nice(max(0, 10 - os.nice(0)))  # training comes first
    mirror: Mirror | None = None
    said, ended, wait = None, once, 0.0
    deadline = time.monotonic() + patience_s if once else None
    while True:
        if not ended and _input_closed(wait):
            ended, wait, deadline = True, 0.0, time.monotonic() + patience_s
        if mirror is not None and mirror.store.is_gone:
            # The database was deleted, and MLflow holds on to the file that has no name any
            # more. A new process opens, and so makes, the new one.
            os.execv(sys.executable, [sys.executable, "-m", __spec__.name, *sys.argv[1:]])
        try:
            with the_only_writer(root, POLL_S):
                mirror = mirror or Mirror(root, sweep, open_store(root))
                done = mirror.pass_over(last=ended and not (once and _is_driven(root, sweep)))
            if ended:
                return _complain(done)
            wait = POLL_S
        except (StoreDown, Refused) as error:
            mirror, wait = None, min(max(2 * wait, POLL_S), LONGEST_WAIT_S)
            if str(error) != said:
                said = str(error)
                print(f"{time.strftime('%F %T')} {said}", file=sys.stderr, flush=True)
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise StoreDown(str(error)) from error
                time.sleep(min(wait, left, 1.0))


def _complain(done: Passed) -> None:
    if done.problems:
        raise TrackError(
            f"{len(done.problems)} runs could not be mirrored; all others are",
            where="\n         ".join(done.problems),
            fix="mend these, then: scalelab sync",
        )


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
    try:
        follow(args.root, args.sweep, args.patience, args.once)
    except StoreDown as error:
        print(f"error: {not_taken(args.root, error)}", file=sys.stderr)
        return 3
    except ScalelabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
