"""Opening the store of the MLflow mirror, the lock of its one writer, and errors of the store.

Not here: what is sent (sweep_mirror.py), MLflow itself (mlflow_store.py), addresses (store_uri.py).
"""

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from scalelab.errors import TrackError
from scalelab.leases import LeaseTaken, hold
from scalelab.screen import echo
from scalelab.tracking.redaction import redact
from scalelab.tracking.store_errors import AnotherWriter, StoreBroken, StoreDown
from scalelab.tracking.store_uri import ARTIFACTS, DATABASE, is_server, stated_uri, tracking_uri

if TYPE_CHECKING:
    from scalelab.tracking.artifact_home import ArtifactHome
    from scalelab.tracking.mlflow_store import Store

T = TypeVar("T")

INSTALL = "pip install mlflow, then: scalelab sync"
REPAIR = "nothing is lost: repair the store, then run `scalelab sync`"
REBUILD = (
    "if the file is damaged, delete {path} and run `scalelab sync`: MLflow is filled again from the "
    "directories of runs, and nothing is lost"
)
SILENT_WAIT_S = 2.0
"""Seconds of waiting for another writer after which a message is printed."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 10.0


def artifact_home(root: Path) -> "ArtifactHome | None":
    """Return where new experiments keep their artifacts; None if a server decides."""
    from scalelab.tracking.artifact_home import ArtifactHome

    if is_server(tracking_uri(root)):
        return None
    return ArtifactHome(root.resolve() / ARTIFACTS, moves=not stated_uri())


def has_mlflow() -> bool:
    """True if MLflow is installed; does not import it."""
    return importlib.util.find_spec("mlflow") is not None


def no_mlflow(reason: str) -> TrackError:
    """Return the error for a missing or broken MLflow."""
    return TrackError(
        f"MLflow {reason}, so there is nothing to mirror to", where="this Python's packages", fix=INSTALL
    )


def open_store(root: Path) -> "Store":
    """Return the store, created under a lock if missing: concurrent creation would fail.

    Raises:
        TrackError: MLflow is not installed, or only a part of it.
        StoreDown: The store cannot be reached or read.
        StoreBroken: The store cannot be used until a person repairs it.
    """
    if not has_mlflow():
        raise no_mlflow("is not installed")
    try:
        from scalelab.tracking.mlflow_store import Store, make_store
    except ImportError as error:
        raise no_mlflow(f"cannot be imported ({error})") from error
    with _held(root / ".mlflow", wait_s=120):
        uri = tracking_uri(root)
        make_store(uri)
        return Store(uri, artifact_home(root))


@contextmanager
def writer_lock(root: Path, wait_s: float) -> Iterator[None]:
    """Hold the right to write to the mirror of `root`, for one pass.

    Raises:
        AnotherWriter: Another process held it for `wait_s` seconds.
    """
    with _held(root / ".sync", wait_s):
        yield


@contextmanager
def _held(path: Path, wait_s: float) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(hold(path, "taken", "wait", wait_s=min(wait_s, SILENT_WAIT_S)))
        except LeaseTaken as taken:
            if wait_s <= SILENT_WAIT_S:
                raise _another(taken) from None
            echo(f"waiting: {_another(taken)}", file=sys.stderr, flush=True)
            try:
                stack.enter_context(hold(path, "taken", "wait", wait_s=wait_s - SILENT_WAIT_S))
            except LeaseTaken as still:
                raise _another(still) from None
        yield


def _another(taken: LeaseTaken) -> AnotherWriter:
    who = taken.where.partition(", held by ")[2]
    return AnotherWriter(f"another process is writing to the mirror: {who}")


def insist(action: Callable[[], T], patience_s: float) -> T:
    """Return the result of `action`, retried with growing pauses while the store is down.

    Raises:
        StoreBroken: The store cannot be used until a person repairs it.
        StoreDown: The store was still down after `patience_s` seconds.
    """
    deadline, wait = time.monotonic() + patience_s, FIRST_WAIT_S
    while True:
        try:
            return action()
        except StoreBroken:
            raise
        except StoreDown:
            if time.monotonic() + wait > deadline:
                raise
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT_S)


def not_taken(root: Path, error: Exception) -> TrackError:
    """Return the error for a store that refuses."""
    uri = tracking_uri(root)
    if isinstance(error, AnotherWriter):
        return TrackError(str(error), where=str(root), fix="wait for it to end, then run `scalelab sync`")
    if stated_uri():
        fix = error.fix if isinstance(error, StoreBroken) else REPAIR
        return TrackError(f"MLflow's store failed: {error}", where=redact(uri), fix=fix)
    path = root.resolve() / DATABASE
    fix = (
        REBUILD.format(path=path)
        if isinstance(error, StoreBroken)
        else f"{REPAIR}; {REBUILD.format(path=path)}"
    )
    return TrackError(f"MLflow's database failed: {error}", where=str(path), fix=fix)
