"""MLflow's store, as the mirror needs it: every call may be repeated and changes nothing twice.

create_run takes no name of ours and is not idempotent, so a run is searched by its tag
`scalelab.key` before it is created, HTTP retries are off, and a second run of one key (made
by a server that answered too late) is deleted, the oldest kept. Metrics carry the time that
their journal fixed, so sending them again adds no rows. What goes wrong is a StoreDown (come
again), a StoreBroken (a person must repair it) or a StoreRefused (it will be the same next time);
its text holds no credentials.

Not here: addresses (store_uri.py), where artifacts lie (artifact_home.py).
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
    from mlflow.entities import Experiment, Metric, Param, Run, RunTag
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

from scalelab.errors import RunError
from scalelab.files import exists, whole
from scalelab.tracking import mlflow_objects
from scalelab.tracking.artifact_home import ArtifactHome
from scalelab.tracking.lineage import MirroredDataset, MirroredModel
from scalelab.tracking.payload import MetricPoint
from scalelab.tracking.redaction import redact
from scalelab.tracking.store_errors import StoreBroken, StoreDown, StoreRefused
from scalelab.tracking.store_uri import (
    OTHER_STORE,
    for_mlflow,
    refusal_of,
    scheme_of,
    sqlite_path,
    sqlite_uri,
)

P, T = ParamSpec("P"), TypeVar("T")
KEY, PARENT = "scalelab.key", "mlflow.parentRunId"
KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Tag that makes MLflow's page open on training runs instead of traces."""
UNDECIDED = ("", "no_inferred_type", "genai_development_inferred", "custom_model_development_inferred")
"""Values of that tag that MLflow's page guessed; a value that a person chose stays."""
METRICS_AT_ONCE, PARAMS_AT_ONCE, RUNS_AT_ONCE = 1000, 100, 1000  # MLflow's limits for one call
LONGEST_PARAM, LONGEST_TAG = 6000, 8000
WAITS_S = (0.05, 0.1, 0.2, 0.4)
QUICK_S = 1.0
"""Seconds after which a failed call is not repeated: the store is slow, or gone."""
REFUSALS = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"}
PACKAGES = {"psycopg2": "psycopg2-binary", "psycopg": "'psycopg[binary]'", "MySQLdb": "mysqlclient"}
"""Packages of database drivers whose name is not that of the module."""
LEFT_BEHIND = ("-journal", "-wal", "-shm")
"""Endings of the files that SQLite keeps beside a database."""
DAMAGE = ("file is not a database", "malformed", "file is encrypted")
"""What SQLite says of a damaged file."""


@dataclass(frozen=True)
class StoreExperiment:
    """An experiment of the store."""

    id: str
    is_restored: bool = False
    """True if it had been deleted and was restored by this call."""


@dataclass(frozen=True)
class StoreRun:
    """A run of the store."""

    id: str
    start_ms: int


@contextmanager
def _answers() -> Iterator[None]:
    """Turn errors of MLflow, its HTTP client and its database into StoreDown or StoreRefused."""
    try:
        yield
    except ImportError as error:
        name = (error.name or str(error)).partition(".")[0]
        raise StoreBroken(
            f"the database driver {name} is not installed",
            f"pip install {PACKAGES.get(name, name)}, then run `scalelab sync`",
        ) from error
    except (sqlalchemy.exc.ArgumentError, ValueError) as error:
        raise StoreBroken(_words(error), OTHER_STORE) from error
    except (
        MlflowException,
        requests.exceptions.RequestException,
        sqlalchemy.exc.SQLAlchemyError,
        OSError,
    ) as error:
        message = _words(error)
        if any(sign in message for sign in DAMAGE):
            raise StoreBroken(
                message, "restore the database from a copy, then run `scalelab sync`"
            ) from error
        refused = isinstance(error, MlflowException) and error.error_code in REFUSALS
        raise (StoreRefused if refused else StoreDown)(message) from error


def _words(error: Exception) -> str:
    """An error's text on one line, without SQL statements and credentials."""
    message = " ".join(str(error).split()).split(" [SQL:")[0]
    return redact(message.rpartition("prematurely) ")[2])[:400]


def _patiently(method: Callable[P, T]) -> Callable[P, T]:
    """Return the method with one immediate retry after a quick failure."""

    @wraps(method)
    def ask(*args: P.args, **kwargs: P.kwargs) -> T:
        for wait_s in (*WAITS_S, None):
            began = time.monotonic()
            try:
                with _answers():
                    return method(*args, **kwargs)
            except StoreBroken:
                raise
            except StoreDown:
                if wait_s is None or time.monotonic() - began > QUICK_S:
                    raise
                time.sleep(wait_s)
        raise AssertionError("the last try returns or raises")

    return ask


class Store:
    """A tracking store. Opening a missing one creates it: do that under a lock.

    Args:
        uri: Tracking URI.
        home: Where a new experiment keeps its artifacts; None leaves it to a server.

    Raises:
        StoreBroken: The address, its driver or the database cannot be used.
        StoreDown: The store cannot be reached now.
    """

    def __init__(self, uri: str, home: ArtifactHome | None):
        self.uri = uri
        self._home = home
        self._path = _checked(uri)
        quiet()
        try:
            with _answers():
                self._client = MlflowClient(for_mlflow(uri))
                self._client.search_experiments(max_results=1)
        except StoreRefused as error:
            raise StoreBroken(_unsupported(uri, error), OTHER_STORE) from error
        with _answers():
            self._file = self._file_now()

    def _file_now(self) -> tuple[int, int] | None:
        """Identity of a SQLite store's file; None if there is none, or it is no file. Raises OSError."""
        try:
            found = None if self._path is None else self._path.stat()
        except FileNotFoundError:
            return None
        return None if found is None else (found.st_dev, found.st_ino)

    @property
    def is_gone(self) -> bool:
        """True if the database was deleted or replaced under the open connection."""
        try:
            return self._path is not None and self._file_now() != self._file
        except OSError:  # the file system does not say
            return False

    @_patiently
    def find_experiment(self, name: str) -> str | None:
        """Return the id of an experiment by its name; None if missing or deleted."""
        found = self._client.get_experiment_by_name(name)
        if found is None or found.lifecycle_stage == "deleted":
            return None
        self._settle(found)
        return found.experiment_id

    @_patiently
    def experiment(self, name: str) -> StoreExperiment:
        """Return an experiment by its name; created if missing, restored if deleted."""
        found = self._client.get_experiment_by_name(name)
        if found is None:
            place = None if self._home is None else self._home.location(name)
            return StoreExperiment(self._client.create_experiment(name, place, tags=KIND))
        is_deleted = found.lifecycle_stage == "deleted"
        if is_deleted:
            self._client.restore_experiment(found.experiment_id)
        self._settle(found)
        return StoreExperiment(found.experiment_id, is_restored=is_deleted)

    @_patiently
    def tag_experiment(self, experiment: str, tags: Mapping[str, str]) -> None:
        """Set tags of an experiment."""
        there = self._client.get_experiment(experiment).tags
        for key, value in tags.items():
            if there.get(key) != value:
                self._client.set_experiment_tag(experiment, key, value)

    def _settle(self, found: Experiment) -> None:
        """Give an experiment of an earlier version or place the tag and the artifact location of a new one."""
        for key, value in KIND.items():
            if found.tags.get(key, "") in UNDECIDED:
                self._client.set_experiment_tag(found.experiment_id, key, value)
        if self._home is not None:
            self._home.settle(for_mlflow(self.uri), found.experiment_id, found.name, found.artifact_location)

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
    ) -> StoreRun:
        """Return the run with this key, created if missing; duplicates are deleted.

        Args:
            experiment: Its id.
            key: Ours: a run's id, or `sweep:...` or `fit:...`.
            name: Display name.
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
        return StoreRun(made.info.run_id, start_ms)

    def _oldest(self, found: list[Run]) -> StoreRun:
        """The oldest of the runs; the others are deleted."""
        found = sorted(found, key=lambda run: (run.info.start_time, run.info.run_id))
        for double in found[1:]:
            self._client.delete_run(double.info.run_id)
        return StoreRun(found[0].info.run_id, found[0].info.start_time)

    @_patiently
    def runs(self, experiment: str) -> dict[str, str]:
        """Return all runs of an experiment that have a key, key to id; duplicates are deleted."""
        by_key: dict[str, list[Run]] = {}
        token: str | None = None
        while True:
            page = self._client.search_runs([experiment], max_results=RUNS_AT_ONCE, page_token=token)
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
        points: Sequence[MetricPoint] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Log metrics, params and tags of a run. A value that is not finite becomes a tag.

        Args:
            run_id: MLflow's id of the run.
            points: Metrics with their step and time in milliseconds since 1970.
            params: Name to value; values longer than LONGEST_PARAM characters are cut.
            tags: Name to value; values longer than LONGEST_TAG characters are cut.
        """
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
            self._client.log_batch(run_id, tags=[RunTag(k, _cut(v, LONGEST_TAG)) for k, v in labels.items()])

    @_patiently
    def dataset(self, run_id: str, record: MirroredDataset) -> None:
        """Log the data of a run as a dataset of MLflow; no text is copied."""
        mlflow_objects.log_dataset(self._client, run_id, record)

    @_patiently
    def model(
        self, experiment: str, run_id: str, record: MirroredModel, dataset: MirroredDataset | None = None
    ) -> None:
        """Log the model of a run as a model of MLflow; no weights are copied.

        Args:
            experiment: Id of the run's experiment.
            run_id: MLflow's id of the run.
            record: The model.
            dataset: The data that its metrics were measured on; None if unknown.
        """
        mlflow_objects.log_model(self._client, experiment, run_id, record, dataset)

    @_patiently
    def status(self, run_id: str, status: str, end_ms: int | None) -> None:
        """Set a run's status: RUNNING reopens it, any other ends it at `end_ms`."""
        if status == "RUNNING":
            self._client.update_run(run_id, status)
        else:
            self._client.set_terminated(run_id, status, end_ms)

    @_patiently
    def artifact(self, run_id: str, path: Path) -> None:
        """Copy a file into a run's artifacts."""
        place = self._client.get_run(run_id).info.artifact_uri
        folder = None if self._home is None else self._home.folder_of(place)
        if folder is None:
            self._client.log_artifact(run_id, str(path))
            return
        with whole(folder / path.name) as file:
            file.write(path.read_bytes())


def make_store(uri: str) -> None:
    """Create the database of a SQLite URI if missing, atomically.

    MLflow makes its tables one by one, and one that was killed in between can never be opened.

    Raises:
        StoreBroken: The address cannot be used.
        StoreDown: The disk refuses.
    """
    path = _checked(uri)
    if path is None or _is_there(path):
        return
    quiet()
    with _answers():
        for left in (Path(f"{path}{suffix}") for suffix in LEFT_BEHIND):
            if left.exists():  # SQLite would apply that of a deleted database to the new one
                left.unlink()
    try:
        with whole(path) as file, _answers():
            made = sqlite_uri(Path(file.name).absolute())
            MlflowClient(for_mlflow(made)).search_experiments(max_results=1)
    except RunError as error:
        raise StoreDown(error.problem) from error


def quiet() -> None:
    """Silence MLflow's log while it creates a database."""
    for noisy in ("alembic", "mlflow", "sqlalchemy"):
        logging.getLogger(noisy).setLevel(logging.ERROR)


def _checked(uri: str) -> Path | None:
    """The file of a SQLite store; None for others. Raises StoreBroken for an address that is none.

    An existing file is opened first: MLflow retries one that cannot be opened for 100 seconds.
    """
    if problem := refusal_of(uri):
        raise StoreBroken(redact(problem), OTHER_STORE)
    path = sqlite_path(uri)
    if path is not None and _is_there(path):
        with _answers():
            try:
                with closing(sqlite3.connect(path, timeout=10)) as db:
                    db.execute("select count(*) from sqlite_master")
            except sqlite3.Error as error:
                raise OSError(str(error)) from error
    return path


def _is_there(path: Path) -> bool:
    """Whether there is a database; one that may be there is not replaced.

    Raises:
        StoreDown: The file system does not say.
    """
    try:
        return exists(path)
    except RunError as error:
        raise StoreDown(error.problem) from error


def _unsupported(uri: str, error: StoreRefused) -> str:
    """Why MLflow rejects an address, in one sentence."""
    scheme = scheme_of(uri)
    if scheme in ("", "file"):
        return "MLflow keeps no new runs in a directory (a file: store), only in a database or on a server"
    return f"MLflow does not know the scheme {scheme!r}" if "unsupported URI" in str(error) else str(error)


def _cut(text: str, longest: int) -> str:
    """The text, cut to the length that MLflow accepts and ended by dots."""
    return text if len(text) <= longest else text[: longest - 3] + "..."
