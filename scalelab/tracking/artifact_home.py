"""Where the artifacts of a store lie, as its database names the place and on the disk.

    database beside the runs    mlflow-artifacts:/NAME/...   served by `scalelab ui`, moves with the runs
    another database            file:///.../runs/mlflow-artifacts/NAME/...
    server                      the server decides

A location of the first kind names no directory, so a project that was moved keeps its artifacts.
Locations of the second kind, and those of databases from before, are rewritten once the experiment is
looked up in its new place.

Not here: MLflow's own calls (mlflow_store.py).
"""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import sqlalchemy

from scalelab.files import exists

PROXY = "mlflow-artifacts:"
TABLES = {"experiments": "artifact_location", "runs": "artifact_uri", "logged_models": "artifact_location"}
"""Tables of MLflow's database that name places of artifacts, with the column."""


@dataclass(frozen=True)
class ArtifactHome:
    """The place of the artifacts of all experiments of one store."""

    directory: Path
    """Directory on the disk, absolute."""
    moves: bool
    """True if the database lies beside it, so that both move together."""

    def location(self, name: str) -> str:
        """Return the location of an experiment's artifacts for the database."""
        return f"{PROXY}/{name}" if self.moves else (self.directory / name).as_uri()

    def folder_of(self, location: str) -> Path | None:
        """Return the directory of a location that this process writes itself; None for others."""
        if not location.startswith(f"{PROXY}/"):
            return None
        return self.directory / unquote(urlsplit(location).path).strip("/")

    def settle(self, uri: str, experiment: str, name: str, location: str) -> None:
        """Rewrite the locations of an experiment that was made in another place.

        Args:
            uri: Address of the database.
            experiment: Id of the experiment.
            name: Its name.
            location: Location of its artifacts now.
        """
        here = self.location(name)
        if location == here or not _is_ours(location, self.directory.name, name):
            return
        if not self.moves and exists(_path(location)):
            return  # another project that keeps its runs in the same database
        engine = sqlalchemy.create_engine(uri)
        try:
            with engine.begin() as connection:
                for table, column in TABLES.items():
                    move = sqlalchemy.text(
                        f"update {table} set {column} = replace({column}, :before, :after) "
                        f"where experiment_id = :experiment and {column} like :pattern"
                    )
                    values = {"before": location, "after": here, "experiment": int(experiment)}
                    connection.execute(move, {**values, "pattern": f"{location}%"})
        finally:
            engine.dispose()


def _is_ours(location: str, directory: str, name: str) -> bool:
    """True if a location is one that this program chose for an experiment, in whatever place."""
    path = _path(location)
    return location.startswith("file:") and path.name == name and path.parent.name == directory


def _path(location: str) -> Path:
    return Path(unquote(urlsplit(location).path))
