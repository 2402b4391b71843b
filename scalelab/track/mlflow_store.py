"""MLflow's store, as the mirror needs it: every call may be repeated and changes nothing twice.

create_run takes no name of ours and is not idempotent, so a run is searched by its tag
`scalelab.key` before it is created, HTTP retries are off, and a second run of one key (made
by a server that answered too late) is deleted, the oldest kept. Metrics carry the time that
their journal fixed, so sending them again adds no rows. Whatever goes wrong is a StoreDown:
the caller waits, and comes again.
"""

import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

import requests
import sqlalchemy.exc
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from scalelab.track.points import Point, StoreDown

for _noisy in ("alembic", "mlflow", "sqlalchemy"):
    logging.getLogger(_noisy).setLevel(logging.ERROR)

KEY = "scalelab.key"
METRICS_AT_ONCE, PARAMS_AT_ONCE = 1000, 100  # MLflow's own limits for one call
LONGEST_PARAM, LONGEST_TAG = 6000, 8000


@contextmanager
def _down() -> Iterator[None]:
    try:
        yield
    except (
        MlflowException,
        requests.exceptions.RequestException,
        sqlalchemy.exc.SQLAlchemyError,
        OSError,
    ) as error:
        raise StoreDown(" ".join(str(error).split())[:300]) from error


class Store:
    """A tracking store. Opening one that is not there yet makes it: do that under a lock.

    Args:
        uri: Tracking URI.
        artifacts: Where a new experiment keeps its artifacts; None leaves it to a server.
    """

    def __init__(self, uri: str, artifacts: Path | None):
        self.uri = uri
        self._artifacts = artifacts
        with _down():
            self._client = MlflowClient(uri)
            self._client.search_experiments(max_results=1)

    def experiment(self, name: str) -> str:
        """The id of an experiment, made where it is missing."""
        with _down():
            found = self._client.get_experiment_by_name(name)
            if found is not None:
                if found.lifecycle_stage == "deleted":
                    self._client.restore_experiment(found.experiment_id)
                return found.experiment_id
            place = None if self._artifacts is None else (self._artifacts / name).as_uri()
            return self._client.create_experiment(name, artifact_location=place)

    def run(
        self, experiment: str, key: str, name: str, *, start_ms: int, parent: str | None = None
    ) -> str:
        """The id of the run with this key, made where it is missing."""
        with _down():
            found = self._client.search_runs([experiment], f"tags.`{KEY}` = '{key}'")
            found = sorted(found, key=lambda r: (r.info.start_time, r.info.run_id))
            for double in found[1:]:
                self._client.delete_run(double.info.run_id)
            if found:
                return found[0].info.run_id
            tags = {KEY: key} | ({"mlflow.parentRunId": parent} if parent else {})
            made = self._client.create_run(experiment, start_time=start_ms, tags=tags, run_name=name)
            return made.info.run_id

    def log(
        self,
        run_id: str,
        *,
        points: Sequence[Point] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Metrics, params and tags of a run. A value that is no number becomes a tag."""
        tags = dict(tags or {})
        for point in points:
            if not math.isfinite(point.value):
                tags[f"nonfinite.{point.name}"] = f"{point.value} at step {point.step}"
        metrics = [Metric(p.name, p.value, p.t, p.step) for p in points if math.isfinite(p.value)]
        entries = [Param(k, v[:LONGEST_PARAM]) for k, v in (params or {}).items()]
        with _down():
            for i in range(0, len(metrics), METRICS_AT_ONCE):
                self._client.log_batch(run_id, metrics=metrics[i : i + METRICS_AT_ONCE])
            for i in range(0, len(entries), PARAMS_AT_ONCE):
                self._client.log_batch(run_id, params=entries[i : i + PARAMS_AT_ONCE])
            if tags:
                labels = [RunTag(k, v[:LONGEST_TAG]) for k, v in tags.items()]
                self._client.log_batch(run_id, tags=labels)

    def status(self, run_id: str, status: str, end_ms: int | None) -> None:
        """Set a run's status: RUNNING reopens it, any other ends it at `end_ms`."""
        with _down():
            if status == "RUNNING":
                self._client.update_run(run_id, status)
            else:
                self._client.set_terminated(run_id, status, end_ms)

    def artifact(self, run_id: str, path: Path) -> None:
        """Keep a copy of a file with a run."""
        with _down():
            self._client.log_artifact(run_id, str(path))
