"""Where the mirror is, how it is opened, and the two words with which a store refuses.

    StoreDown   unreachable, read-only, busy or broken: wait, and come again
    Refused     it answered, and will say the same next time: a person has to look

Not here: what is sent (mirror.py), MLflow itself (mlflow_store.py).
"""

import importlib.util
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from scalelab.errors import TrackError
from scalelab.leases import Taken, hold

if TYPE_CHECKING:
    from scalelab.track.mlflow_store import Store

T = TypeVar("T")

INSTALL = "pip install mlflow, then: scalelab sync"
FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 10.0


class StoreDown(Exception):
    """The store did not take a call: unreachable, read-only, busy or broken. Come again."""


class Refused(Exception):
    """The store understood a call and will not have it: no such run, or another value stands."""


def tracking_uri(root: Path) -> str:
    """Where the mirror is: $MLFLOW_TRACKING_URI, else a SQLite file among the runs."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.resolve() / 'mlflow.db'}"


def artifact_root(root: Path) -> Path | None:
    """Where new experiments of our own store keep artifacts; None where a server decides."""
    if tracking_uri(root).startswith(("http://", "https://", "databricks")):
        return None
    return root.resolve() / "mlflow-artifacts"


def has_mlflow() -> bool:
    """Whether MLflow is installed, without importing it."""
    return importlib.util.find_spec("mlflow") is not None


def no_mlflow(reason: str) -> TrackError:
    """What a person is told where MLflow is missing or cannot be imported."""
    return TrackError(
        f"MLflow {reason}, so there is nothing to mirror to",
        where="this Python's packages",
        fix=INSTALL,
    )


def open_store(root: Path) -> "Store":
    """The store, made under a lock where it is missing: two makers at once would both fail.

    Raises:
        TrackError: MLflow is not installed, or only a part of it.
        StoreDown: The store cannot be reached or read.
    """
    if not has_mlflow():
        raise no_mlflow("is not installed")
    try:
        from scalelab.track.mlflow_store import Store, make_store
    except ImportError as error:
        raise no_mlflow(f"cannot be imported ({error})") from error
    with _held(root / ".mlflow", wait_s=120):
        uri = tracking_uri(root)
        make_store(uri)
        return Store(uri, artifact_root(root))


@contextmanager
def the_only_writer(root: Path, wait_s: float) -> Iterator[None]:
    """Hold the right to write to the mirror of `root`, for one pass.

    Raises:
        StoreDown: Another process held it for `wait_s` seconds.
    """
    with _held(root / ".sync", wait_s):
        yield


@contextmanager
def _held(path: Path, wait_s: float) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(hold(path, "taken", "wait", wait_s=wait_s))
        except Taken:
            raise StoreDown("another process is writing to the mirror") from None
        yield


def insist(action: Callable[[], T], patience_s: float) -> T:
    """What `action` returns, tried again with growing pauses while the store is down.

    Raises:
        StoreDown: It still was after `patience_s` seconds.
    """
    deadline, wait = time.monotonic() + patience_s, FIRST_WAIT_S
    while True:
        try:
            return action()
        except StoreDown:
            if time.monotonic() + wait > deadline:
                raise
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT_S)


def not_taken(root: Path, error: Exception) -> TrackError:
    """What a person is told when the store refuses."""
    return TrackError(
        f"MLflow's store did not answer as it should: {error}",
        where=tracking_uri(root),
        fix="nothing is lost: see to the store, then run `scalelab sync`",
    )
