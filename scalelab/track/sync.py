"""The one process that writes to MLflow while a sweep runs, and `scalelab sync` after.

    python -m scalelab.track.sync ROOT SWEEP

follows a sweep's journals until its standard input closes (the sweep has ended, or died),
makes a last pass and leaves. Training never waits for it: a store that is down costs the
mirror some delay and training nothing.
"""

import os
import select
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from scalelab.errors import TrackError
from scalelab.files import make_dir, writing
from scalelab.track.manifest import list_sweeps
from scalelab.track.mirror import Mirror, has_mlflow, not_taken, open_store, waiting_lock
from scalelab.track.points import StoreDown

POLL_S = 1.0
LONGEST_WAIT_S = 10.0
PATIENCE_S = 30.0
"""How long the last pass keeps trying a store that is down."""
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
            return BEHIND
        return None if code == 0 else f"{BEHIND}; why: {self._log}"


def sync(root: Path, sweep: str | None) -> str:
    """Bring MLflow up to date with one sweep, or with all. Returns what was done, in words.

    Raises:
        TrackError: MLflow is not installed, the store does not answer, or no such sweep.
    """
    names = list_sweeps(root) if sweep is None else [sweep]
    if not names:
        return f"no sweeps in {root}: nothing to mirror"
    lines = []
    for name in names:
        try:
            moved = _one_pass(root, name)
        except StoreDown as error:
            raise not_taken(root, error) from error
        lines.append(f"{name}: {moved} runs brought up to date" if moved else f"{name}: up to date")
    return "\n".join(lines)


def _one_pass(root: Path, sweep: str) -> int:
    if not (root / sweep / "sweep.json").exists():
        raise TrackError(
            f"there is no sweep {sweep!r}",
            where=f"{root}, which holds: {', '.join(list_sweeps(root)) or 'none'}",
            fix="name one of these",
        )
    with waiting_lock(root / sweep / ".sync.lock"):
        return Mirror(root, sweep, open_store(root)).pass_over(last=True)


def follow(root: Path, sweep: str) -> int:
    """Mirror until standard input closes. 0: complete; 3: the store was down to the end."""
    os.nice(10)  # training comes first
    mirror: Mirror | None = None
    wait, deadline, ended = POLL_S, None, False
    with waiting_lock(root / sweep / ".sync.lock"):
        while True:
            ended = ended or _input_closed(wait)
            deadline = deadline or (time.monotonic() + PATIENCE_S if ended else None)
            try:
                mirror = mirror or Mirror(root, sweep, open_store(root))
                mirror.pass_over(last=ended)
                if ended:
                    return 0
                wait = POLL_S
            except StoreDown as error:
                print(f"{time.strftime('%F %T')} {error}", file=sys.stderr, flush=True)
                mirror, wait = None, min(2 * wait, LONGEST_WAIT_S)
                if deadline is not None:
                    if time.monotonic() > deadline:
                        return 3
                    time.sleep(1)


def _input_closed(wait_s: float) -> bool:
    ready, _, _ = select.select([sys.stdin], [], [], wait_s)
    return bool(ready) and not os.read(sys.stdin.fileno(), 1)


if __name__ == "__main__":
    sys.exit(follow(Path(sys.argv[1]), sys.argv[2]))
