"""The process that mirrors to MLflow during training, and `scalelab sync`, which catches up later.

    python -m scalelab.tracking.sync ROOT NAME            until standard input closes
    python -m scalelab.tracking.sync ROOT NAME --once     one full pass

NAME is a sweep, a post-training or both: everything with a manifest is mirrored. The process follows
the journals until its standard input closes (the driver has ended, or died), makes a last pass and
exits. Training never waits for it: a store that is down delays the mirror only. Passes are serialised
by one lock for all runs, so two sweeps, or a sweep and `scalelab sync`, never write simultaneously.

Exit status: 0 mirrored, 2 a person has to fix something, 3 the store stayed down.
"""

import getopt
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
from scalelab.files import exists, inside, make_dir, refuse_link, writing
from scalelab.leases import holder
from scalelab.records.manifest_kinds import KINDS, POSTTRAINING, SWEEP, ManifestKind, every_name, kinds_of
from scalelab.records.stage_manifest import StageManifest
from scalelab.records.sweep_manifest import SweepManifest
from scalelab.screen import echo
from scalelab.tracking.journal_mirror import JournalMirror, MirrorProblem, PassSummary
from scalelab.tracking.report_mirror import send_missing
from scalelab.tracking.report_record import reported_names
from scalelab.tracking.stage_mirror import StageMirror
from scalelab.tracking.store_access import (
    FIRST_WAIT_S,
    LONGEST_WAIT_S,
    has_mlflow,
    insist,
    not_taken,
    open_store,
    writer_lock,
)
from scalelab.tracking.store_errors import AnotherWriter, StoreBroken, StoreDown, StoreRefused
from scalelab.tracking.sweep_mirror import Mirror

if TYPE_CHECKING:
    from scalelab.tracking.mlflow_store import Store

POLL_S = 1.0
PATIENCE_S = 10.0
"""Seconds that the last pass keeps trying a store that accepts nothing."""
SYNC_PATIENCE_S = 10.0
"""Seconds that `scalelab sync` waits for the store, because a person waits for it."""
WRITER_PATIENCE_S = 600.0
"""Seconds to wait for other processes that write to the same mirror: large sweeps take minutes."""
MIRRORS: dict[ManifestKind, type[JournalMirror]] = {SWEEP: Mirror, POSTTRAINING: StageMirror}
LOADERS: dict[ManifestKind, Callable[[Path, str], object]] = {
    SWEEP: SweepManifest.load,
    POSTTRAINING: StageManifest.load,
}
USAGE = "python -m scalelab.tracking.sync ROOT NAME [--once] [--patience SECONDS]"
BEHIND = "MLflow is behind: scalelab sync catches up (the runs themselves are complete)"


@dataclass
class Syncer:
    """Handle of the syncer process of one sweep or post-training."""

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
                [sys.executable, "-m", "scalelab.tracking.sync", str(root), name],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out,
                start_new_session=True,  # an interrupt from the keyboard is not for it
            )
        return cls(process, log)

    def finish(self, timeout_s: float = PATIENCE_S + 60) -> str | None:
        """Wait for the last pass. Returns None if all is mirrored, else a message."""
        if self._process is None:
            return "MLflow is not installed: pip install mlflow, then scalelab sync"
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return f"{BEHIND}; it was still running after {timeout_s:.0f} s"
        return None if code == 0 else f"{BEHIND}; why: {self._log}"


def _opened_itself(path: str, flags: int) -> int:
    """Open a file, but not through a symbolic link."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o644)


def sync(root: Path, name: str | None) -> str:
    """Bring MLflow up to date with one name, or with all, and return a report of it.

    Raises:
        TrackError: MLflow is not installed, the store does not answer, there is no such sweep, or
            something could not be mirrored; all else was.
    """
    names = sorted({*every_name(root), *reported_names(root)}) if name is None else [name]
    if not names:
        return f"no sweeps in {root}: nothing to mirror"
    lines, problems = [], []
    for each in names:
        try:
            if each in reported_names(root) and not [kind for kind in KINDS if exists(kind.path(root, each))]:
                lines.append(f"{each}: {_send_reports(root, each)}")
                continue
            kinds = kinds_of(root, each)
            for kind in kinds:
                LOADERS[kind](root, each)
        except ScalelabError as error:
            if name is not None:
                raise
            problems.append(MirrorProblem("name", f"name {each!r} is not mirrored: {error}"))
            lines.append(problems[-1].text)
            continue
        for kind in kinds:
            done = _brought_up(root, each, kind)
            what = f"{each} ({kind.noun})" if len(kinds) > 1 else each
            noun = MIRRORS[kind].noun if done.moved == 1 else f"{MIRRORS[kind].noun}s"
            to_date = f"{done.moved} {noun} brought up to date" if done.moved else "up to date"
            if done.is_restored:
                to_date += " (the experiment had been deleted in MLflow and was restored)"
            lines += [f"{what}: {to_date}", *(problem.text for problem in done.problems)]
            problems += done.problems
    if problems:
        raise _not_all(problems, lines)
    return "\n".join(lines)


def _send_reports(root: Path, name: str) -> str:
    """Send the reports about a name that has no runs of its own, such as an evaluation."""

    def send() -> int:
        with writer_lock(root, WRITER_PATIENCE_S):
            store = open_store(root)
            experiment = store.experiment(name).id
            there = store.runs(experiment)
            return len(set(send_missing(store, experiment, there, root, name)) - set(there))

    try:
        n_sent = insist(send, SYNC_PATIENCE_S)
    except (StoreDown, StoreRefused) as error:
        raise not_taken(root, error) from error
    return f"{n_sent} report{'s' if n_sent > 1 else ''} brought up to date" if n_sent else "up to date"


def _brought_up(root: Path, name: str, kind: ManifestKind) -> PassSummary:
    """Make one full pass over one kind, for an interactive command."""
    try:
        last = not _is_driven(root, name)
        return _catch_up(root, name, kind, SYNC_PATIENCE_S, last=last)
    except StoreDown as error:
        raise not_taken(root, error) from error


def catch_up(root: Path, name: str, patience_s: float, *, last: bool) -> PassSummary:
    """Mirror everything under one name in full, starting again whenever the store fails.

    Args:
        root: Directory of all runs.
        name: Name of a sweep or post-training.
        patience_s: Seconds to keep trying without progress.
        last: Whether training is over: runs without a result get their present state.

    Raises:
        TrackError: `name` stands for nothing, or a manifest cannot be read.
        StoreDown: The store took nothing at all for `patience_s` seconds.
    """
    done = [_catch_up(root, name, kind, patience_s, last=last) for kind in kinds_of(root, name)]
    return PassSummary(
        sum(d.moved for d in done),
        tuple(p for d in done for p in d.problems),
        any(d.is_restored for d in done),
    )


def _catch_up(root: Path, name: str, kind: ManifestKind, patience_s: float, *, last: bool) -> PassSummary:
    moved, wait, deadline = 0, FIRST_WAIT_S, time.monotonic() + patience_s
    is_restored = False
    while True:
        mirror: JournalMirror | None = None
        try:
            with writer_lock(root, max(patience_s, WRITER_PATIENCE_S)):
                mirror = MIRRORS[kind](root, name, open_store(root))
                is_restored = is_restored or mirror.is_restored
                done = mirror.pass_over(last=last)
                return PassSummary(moved + done.moved, done.problems, is_restored)
        except (AnotherWriter, StoreBroken):
            raise
        except (StoreDown, StoreRefused) as error:
            if mirror is not None and mirror.sent:
                moved += mirror.sent
                wait, deadline = FIRST_WAIT_S, time.monotonic() + patience_s
            if time.monotonic() + wait > deadline:
                raise StoreDown(str(error)) from error
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT_S)


def _not_all(problems: Sequence[MirrorProblem], lines: Sequence[str]) -> TrackError:
    there = {problem.noun for problem in problems}
    every = (*(mirror.noun for mirror in MIRRORS.values()), "name")
    nouns = [f"{noun}s" for noun in every if noun in there]
    return TrackError(
        f"{len(problems)} {' and '.join(nouns)} could not be mirrored; all others are",
        where="\n         ".join(lines),
        fix="fix these, then run: scalelab sync",
    )


def _is_driven(root: Path, name: str) -> bool:
    """True if some process is training under this name now."""
    return holder(root / name, "lock") is not None


def follow(root: Path, name: str, patience_s: float) -> None:
    """Mirror until standard input closes, then mirror the rest.

    Raises:
        TrackError: MLflow is not installed, or runs could not be mirrored.
        StoreDown: The store was still down `patience_s` seconds after the end.
    """
    mirrors: dict[ManifestKind, JournalMirror] = {}
    opened: Store | None = None  # the first of this process: MLflow keeps its connection
    message, wait = None, 0.0
    while not _input_closed(wait):
        _start_over_if_gone(opened)
        try:
            with writer_lock(root, POLL_S):
                if missing := [kind for kind in kinds_of(root, name) if kind not in mirrors]:
                    store = open_store(root)
                    opened = opened or store
                    mirrors |= {kind: MIRRORS[kind](root, name, store) for kind in missing}
                for mirror in mirrors.values():
                    mirror.pass_over()
            wait = POLL_S
        except (StoreDown, StoreRefused) as error:
            mirrors, wait = {}, min(max(2 * wait, POLL_S), LONGEST_WAIT_S)
            if str(error) != message:
                message = str(error)
                echo(f"{time.strftime('%F %T')} {message}", file=sys.stderr, flush=True)
    _start_over_if_gone(opened)
    _finish(root, name, patience_s, last=True)


def _finish(root: Path, name: str, patience_s: float, *, last: bool) -> None:
    done = catch_up(root, name, patience_s, last=last)
    if done.problems:
        raise _not_all(done.problems, [problem.text for problem in done.problems])


def _start_over_if_gone(store: "Store | None") -> None:
    """Restart this process if the database was deleted: MLflow keeps the deleted file open."""
    if store is not None and store.is_gone:
        os.execv(sys.executable, [sys.executable, "-m", __spec__.name, *sys.argv[1:]])


def _input_closed(wait_s: float) -> bool:
    ready, _, _ = select.select([sys.stdin], [], [], wait_s)
    return bool(ready) and not os.read(sys.stdin.fileno(), 4096)


def main() -> int:
    """Run the process and return its exit status."""
    try:
        pairs, (place, name) = getopt.gnu_getopt(sys.argv[1:], "", ["once", "patience="])
        options = dict(pairs)
        patience_s = float(options.get("--patience", PATIENCE_S))
    except (getopt.GetoptError, ValueError):
        echo(f"usage: {USAGE}", file=sys.stderr)
        return 2
    root = Path(place)
    os.nice(max(0, 10 - os.nice(0)))  # training comes first
    try:
        if "--once" in options:
            _finish(root, name, patience_s, last=not _is_driven(root, name))
        else:
            follow(root, name, patience_s)
    except StoreDown as error:
        echo(f"error: {not_taken(root, error)}", file=sys.stderr)
        return 3
    except ScalelabError as error:
        echo(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
