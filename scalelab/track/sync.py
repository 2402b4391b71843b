"""The one process that writes to MLflow while something is trained, and `scalelab sync` after.

    python -m scalelab.track.sync ROOT NAME            until standard input closes
    python -m scalelab.track.sync ROOT NAME --once     one full pass

NAME stands for a sweep, a post-training or both: whatever has a manifest is mirrored. It follows
their journals until its standard input closes (the driver has ended, or died), makes a last pass
and leaves. Training never waits for it: a store that is down costs the mirror some delay and
training nothing. Passes are taken in turn, under one lock for all the runs, so two sweeps, or a
sweep and `scalelab sync`, never write at once.

Exit status: 0 mirrored, 2 a person has to mend something, 3 the store was down to the end.
"""

import argparse
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scalelab.errors import ScalelabError, TrackError
from scalelab.files import inside, make_dir, refuse_link, writing
from scalelab.leases import holder
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
from scalelab.track.journal_mirror import JournalMirror, Passed, Problem
from scalelab.track.kinds import POSTTRAINING, SWEEP, Kind, every_name, kinds_of
from scalelab.track.manifest import SweepManifest
from scalelab.track.mirror import Mirror
from scalelab.track.stage_mirror import StageMirror
from scalelab.track.stages import StageManifest

if TYPE_CHECKING:
    from scalelab.track.mlflow_store import Store

POLL_S = 1.0
PATIENCE_S = 10.0
"""How long the last pass keeps trying a store that takes nothing at all."""
SYNC_PATIENCE_S = 10.0
"""The same for `scalelab sync`, where a person waits."""
MIRRORS: dict[Kind, type[JournalMirror]] = {SWEEP: Mirror, POSTTRAINING: StageMirror}
LOADERS: dict[Kind, Callable[[Path, str], object]] = {
    SWEEP: SweepManifest.load,
    POSTTRAINING: StageManifest.load,
}
BEHIND = "MLflow is behind: scalelab sync catches up (the runs themselves are complete)"


@dataclass
class Syncer:
    """A handle on the syncer process of one sweep or post-training."""

    _process: subprocess.Popen | None
    _log: Path

    @classmethod
    def start(cls, root: Path, name: str) -> "Syncer":
        """Start following a name. Without MLflow nothing is started, and finish says so.

        Raises:
            RunError: The directory or sync.log is a symbolic link, or cannot be written.
        """
        log = make_dir(inside(root, name)) / "sync.log"
        if not has_mlflow():
            return cls(None, log)
        refuse_link(log)
        with writing(log), open(log, "ab", opener=_opened_itself) as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "scalelab.track.sync", str(root), name],
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


def _opened_itself(path: str, flags: int) -> int:
    """A file opened, but not through a symbolic link."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o644)


def sync(root: Path, name: str | None) -> str:
    """Bring MLflow up to date with one name, or with all. Returns what was done, in words.

    Raises:
        TrackError: MLflow is not installed, the store does not answer, there is no such sweep, or
            something could not be mirrored; all else was.
    """
    names = every_name(root) if name is None else [name]
    if not names:
        return f"no sweeps in {root}: nothing to mirror"
    lines, problems = [], []
    for each in names:
        try:
            kinds = kinds_of(root, each)
            for kind in kinds:
                LOADERS[kind](root, each)
        except ScalelabError as error:
            if name is not None:
                raise
            problems.append(Problem("name", f"name {each!r} is not mirrored: {error}"))
            lines.append(problems[-1].text)
            continue
        for kind in kinds:
            done = _brought_up(root, each, kind)
            what = f"{each} ({kind.noun})" if len(kinds) > 1 else each
            noun = MIRRORS[kind].noun if done.moved == 1 else f"{MIRRORS[kind].noun}s"
            to_date = f"{done.moved} {noun} brought up to date" if done.moved else "up to date"
            lines += [f"{what}: {to_date}", *(problem.text for problem in done.problems)]
            problems += done.problems
    if problems:
        raise _not_all(problems, lines)
    return "\n".join(lines)


def _brought_up(root: Path, name: str, kind: Kind) -> Passed:
    """One kind's full pass, for a person who waits."""
    try:
        last = not _is_driven(root, name)
        return _catch_up(root, name, kind, SYNC_PATIENCE_S, last=last)
    except StoreDown as error:
        raise not_taken(root, error) from error


def catch_up(root: Path, name: str, patience_s: float, *, last: bool) -> Passed:
    """A full pass over all that `name` stands for, begun again wherever the store drops it.

    Raises:
        TrackError: `name` stands for nothing, or a manifest cannot be read.
        StoreDown: The store took nothing at all for `patience_s` seconds.
    """
    done = [_catch_up(root, name, kind, patience_s, last=last) for kind in kinds_of(root, name)]
    return Passed(sum(d.moved for d in done), tuple(p for d in done for p in d.problems))


def _catch_up(root: Path, name: str, kind: Kind, patience_s: float, *, last: bool) -> Passed:
    moved, wait, deadline = 0, FIRST_WAIT_S, time.monotonic() + patience_s
    while True:
        mirror: JournalMirror | None = None
        try:
            with the_only_writer(root, patience_s):
                mirror = MIRRORS[kind](root, name, open_store(root))
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


def _not_all(problems: Sequence[Problem], lines: Sequence[str]) -> TrackError:
    there = {problem.noun for problem in problems}
    every = (*(mirror.noun for mirror in MIRRORS.values()), "name")
    nouns = [f"{noun}s" for noun in every if noun in there]
    return TrackError(
        f"{len(problems)} {' and '.join(nouns)} could not be mirrored; all others are",
        where="\n         ".join(lines),
        fix="mend these, then: scalelab sync",
    )


def _is_driven(root: Path, name: str) -> bool:
    """Whether some process is training what `name` stands for at this moment."""
    return holder(root / name, "lock") is not None


def follow(root: Path, name: str, patience_s: float) -> None:
    """Mirror until standard input closes, and then all that is left.

    Raises:
        TrackError: MLflow is not installed, or runs could not be mirrored.
        StoreDown: The store was down from the end on, for `patience_s` seconds.
    """
    mirrors: dict[Kind, JournalMirror] = {}
    opened: Store | None = None  # the first of this process: MLflow keeps its connection
    said, wait = None, 0.0
    while not _input_closed(wait):
        _start_over_if_gone(opened)
        try:
            with the_only_writer(root, POLL_S):
                if missing := [kind for kind in kinds_of(root, name) if kind not in mirrors]:
                    store = open_store(root)
                    opened = opened or store
                    mirrors |= {kind: MIRRORS[kind](root, name, store) for kind in missing}
                for mirror in mirrors.values():
                    mirror.pass_over()
            wait = POLL_S
        except (StoreDown, Refused) as error:
            mirrors, wait = {}, min(max(2 * wait, POLL_S), LONGEST_WAIT_S)
            if str(error) != said:
                said = str(error)
                print(f"{time.strftime('%F %T')} {said}", file=sys.stderr, flush=True)
    _start_over_if_gone(opened)
    _finish(root, name, patience_s, last=True)


def _finish(root: Path, name: str, patience_s: float, *, last: bool) -> None:
    done = catch_up(root, name, patience_s, last=last)
    if done.problems:
        raise _not_all(done.problems, [problem.text for problem in done.problems])


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
    parser.add_argument("name")
    parser.add_argument("--once", action="store_true", help="one full pass")
    parser.add_argument("--patience", type=float, default=PATIENCE_S, metavar="SECONDS")
    args = parser.parse_args()
    os.nice(max(0, 10 - os.nice(0)))  # training comes first
    try:
        if args.once:
            last = not _is_driven(args.root, args.name)
            _finish(args.root, args.name, args.patience, last=last)
        else:
            follow(args.root, args.name, args.patience)
    except StoreDown as error:
        print(f"error: {not_taken(args.root, error)}", file=sys.stderr)
        return 3
    except ScalelabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
