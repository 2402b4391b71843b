"""MLflow's store, as the mirror needs it: every call may be repeated and changes nothing twice.

create_run takes no name of ours and is not idempotent, so a run is searched by its tag
`scalelab.key` before it is created, HTTP retries are off, and a second run of one key (made
by a server that answered too late) is deleted, the oldest kept. Metrics carry the time that
their journal fixed, so sending them again adds no rows. What goes wrong is a StoreDown (come
again) or a Refused (it will be the same next time).
"""

import logging
import math
import os
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

with warnings.catch_warnings():  # its own imports' deprecations say nothing to our readers
    warnings.simplefilter("ignore")
    import requests
    import sqlalchemy.exc
    from mlflow.entities import Metric, Param, Run, RunTag
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

from scalelab.errors import RunError
from scalelab.files import whole
from scalelab.track.access import Refused, StoreDown
from scalelab.track.points import Point

P, T = ParamSpec("P"), TypeVar("T")
SQLITE = "sqlite:///"
KEY, PARENT = "scalelab.key", "mlflow.parentRunId"
KIND = {"mlflow.experimentKind": "custom_model_development"}
"""What makes MLflow's page open on training runs; without it, on traces of chat agents."""
METRICS_AT_ONCE, PARAMS_AT_ONCE, RUNS_AT_ONCE = 1000, 100, 1000  # MLflow's limits for one call
LONGEST_PARAM, LONGEST_TAG = 6000, 8000
WAITS_S = (0.05, 0.1, 0.2, 0.4)
QUICK_S = 1.0
"""A call that fails later than this was not lost on the way: the store is slow, or gone."""
REFUSALS = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"}


@dataclass(frozen=True)
class Kept:
    """A run of the store."""

    id: str
    start_ms: int


@contextmanager
def _answers() -> Iterator[None]:
    """Turn what MLflow, its HTTP client and its database raise into our two words."""
    try:
        yield
    except (
        MlflowException,
        requests.exceptions.RequestException,
        sqlalchemy.exc.SQLAlchemyError,
        OSError,
    ) as error:
        said = " ".join(str(error).split()).split(" [SQL:")[0]  # its statements are no news
        said = said.rpartition("prematurely) ")[2][:400]
        refused = isinstance(error, MlflowException) and error.error_code in REFUSALS
        raise (Refused if refused else StoreDown)(said) from error


def _patiently(method: Callable[P, T]) -> Callable[P, T]:
    """The method, tried again at once where it failed quickly: an answer may have been lost."""

    @wraps(method)
    def ask(*args: P.args, **kwargs: P.kwargs) -> T:
        for wait_s in (*WAITS_S, None):
            began = time.monotonic()
            try:
                with _answers():
                    return method(*args, **kwargs)
            except StoreDown:
                if wait_s is None or time.monotonic() - began > QUICK_S:
                    raise
                time.sleep(wait_s)
        raise AssertionError("the last try returns or raises")

    return ask


class Store:
    """A tracking store. Opening one that is not there yet makes it: do that under a lock.

    Args:
        uri: Tracking URI.
        artifacts: Where a new experiment keeps its artifacts; None leaves it to a server.
    """

    def __init__(self, uri: str, artifacts: Path | None):
        self.uri = uri
        self._artifacts = artifacts
        _try_file(uri)
        quiet()
        with _answers():
            self._client = MlflowClient(uri)
            self._client.search_experiments(max_results=1)
        self._file = self._file_now()

    def _file_now(self) -> tuple[int, int] | None:
        """Which file a SQLite URI leads to now; None if there is none, or it is no file."""
        try:
            found = Path(self.uri.removeprefix("sqlite:///")).stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    @property
    def is_gone(self) -> bool:
        """Whether the database was deleted or replaced under our open connection."""
        return self.uri.startswith("sqlite") and self._file_now() != self._file

    @_patiently
    def find_experiment(self, name: str) -> str | None:
        """The id of an experiment by its name; None where there is none that is not deleted."""
        found = self._client.get_experiment_by_name(name)
        if found is None or found.lifecycle_stage == "deleted":
            return None
        return found.experiment_id

    @_patiently
    def experiment(self, name: str) -> str:
        """The id of an experiment by its name; made where missing, restored where deleted."""
        found = self._client.get_experiment_by_name(name)
        if found is None:
            place = None if self._artifacts is None else (self._artifacts / name).as_uri()
            return self._client.create_experiment(name, place, tags=KIND)
        if found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        return found.experiment_id

    @_patiently
    def run(
        self,
        experiment: str,
        key: str,
        name: str,
        *,
        start_ms: int,
        parent: str | None = None,
        of_this_start: bool = False,
    ) -> Kept:
        """The run with this key, made where it is missing; doubles are deleted.

        Args:
            experiment: Its id.
            key: Ours: a run's id, or `sweep:...` or `fit:...`.
            name: For eyes.
            start_ms: When it began, if it is made now.
            parent: The run that it hangs below.
            of_this_start: A run that began at another time is of another journal: delete it.
        """
        found = self._client.search_runs([experiment], f"tags.`{KEY}` = '{key}'")
        if of_this_start:
            for other in [run for run in found if run.info.start_time != start_ms]:
                self._client.delete_run(other.info.run_id)
            found = [run for run in found if run.info.start_time == start_ms]
        if found:
            return self._oldest(found)
        tags = {KEY: key} | ({PARENT: parent} if parent else {})
        made = self._client.create_run(experiment, start_time=start_ms, tags=tags, run_name=name)
        return Kept(made.info.run_id, start_ms)

    def _oldest(self, found: list[Run]) -> Kept:
        """The run that was there first; the others are deleted."""
        found = sorted(found, key=lambda run: (run.info.start_time, run.info.run_id))
        for double in found[1:]:
            self._client.delete_run(double.info.run_id)
        return Kept(found[0].info.run_id, found[0].info.start_time)

    @_patiently
    def runs(self, experiment: str) -> dict[str, str]:
        """Every run of ours in an experiment, key to id; doubles are deleted."""
        by_key: dict[str, list[Run]] = {}
        token: str | None = None
        while True:
            page = self._client.search_runs(
                [experiment], max_results=RUNS_AT_ONCE, page_token=token
            )
            for run in page:
                if KEY in run.data.tags:
                    by_key.setdefault(run.data.tags[KEY], []).append(run)
            token = page.token
            if not token:
                break
        return {key: self._oldest(found).id for key, found in by_key.items()}

    @_patiently
    def log(
        self,
        run_id: str,
        *,
        points: Sequence[Point] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Metrics, params and tags of a run. A value that is no number becomes a tag."""
        labels = {
            f"scalelab.nonfinite.{point.name}": f"{point.value} at step {point.step}"
            for point in points
            if not math.isfinite(point.value)
        } | dict(tags or {})
        metrics = [Metric(p.name, p.value, p.t, p.step) for p in points if math.isfinite(p.value)]
        entries = [Param(k, _cut(v, LONGEST_PARAM)) for k, v in (params or {}).items()]
        for i in range(0, len(metrics), METRICS_AT_ONCE):
            self._client.log_batch(run_id, metrics=metrics[i : i + METRICS_AT_ONCE])
        for i in range(0, len(entries), PARAMS_AT_ONCE):
            self._client.log_batch(run_id, params=entries[i : i + PARAMS_AT_ONCE])
        if labels:
            self._client.log_batch(
                run_id, tags=[RunTag(k, _cut(v, LONGEST_TAG)) for k, v in labels.items()]
            )

    @_patiently
    def status(self, run_id: str, status: str, end_ms: int | None) -> None:
        """Set a run's status: RUNNING reopens it, any other ends it at `end_ms`."""
        if status == "RUNNING":
            self._client.update_run(run_id, status)
        else:
            self._client.set_terminated(run_id, status, end_ms)

    @_patiently
    def artifact(self, run_id: str, path: Path) -> None:
        """Keep a copy of a file with a run."""
        self._client.log_artifact(run_id, str(path))


def make_store(uri: str) -> None:
    """Make the database of a SQLite URI where there is none, whole or not at all.

    MLflow makes its tables one by one, and one that was killed in between can never be opened.

    Raises:
        StoreDown: The disk refuses.
    """
    path = Path(uri.removeprefix(SQLITE))
    if not uri.startswith(SQLITE) or "?" in uri or path.exists():
        return
    quiet()
    try:
        with whole(path) as file, _answers():
            MlflowClient(SQLITE + file.name).search_experiments(max_results=1)
    except RunError as error:
        raise StoreDown(error.problem) from error


def quiet() -> None:
    """Let MLflow make a database without a word: it is not news."""
    for noisy in ("alembic", "mlflow", "sqlalchemy"):
        logging.getLogger(noisy).setLevel(logging.ERROR)


def _try_file(uri: str) -> None:
    """Ask SQLite itself first: MLflow tries a file that cannot be opened for 100 seconds."""
    if not uri.startswith(SQLITE) or "?" in uri:
        return
    try:
        with closing(sqlite3.connect(uri.removeprefix(SQLITE), timeout=10)) as db:
            db.execute("select count(*) from sqlite_master")
    except sqlite3.Error as error:
        raise StoreDown(str(error)) from error


def _cut(text: str, longest: int) -> str:
    """A text that MLflow takes; one that was too long ends in dots."""
    return text if len(text) <= longest else text[: longest - 3] + "..."
