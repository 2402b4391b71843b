"""Addresses of MLflow stores: built from paths, read back, and as MLflow must be given them.

    default     sqlite:////path/of/runs/mlflow.db
    server      http, https, databricks: asked over the network
    others      sqlite, postgresql, mysql, mssql, and what MLflow's plug-ins add: opened by this process

A path is never pasted into an address: `?` would begin its query, and `%20` would become a space.

Not here: opening a store (store_access.py), hiding its password (redaction.py).
"""

import os
from pathlib import Path
from urllib.parse import urlsplit

from scalelab.errors import TrackError

DATABASE = "mlflow.db"
"""Name of the database beside the runs."""
ARTIFACTS = "mlflow-artifacts"
"""Name of the directory of artifacts beside the runs."""
VARIABLE = "MLFLOW_TRACKING_URI"
SERVERS = ("http", "https", "databricks")
OTHER_STORE = f"set {VARIABLE} to the address of a server or a database, or unset it to use runs/{DATABASE}"
PLAIN, NAMED_DRIVER = "sqlite:///", "sqlite+pysqlite:///"
"""Two spellings of one address. MLflow makes the directories that it believes to see in the first
one, without decoding it; it leaves the second one alone."""


def tracking_uri(root: Path) -> str:
    """Return the store's address: $MLFLOW_TRACKING_URI, else a SQLite file beside the runs.

    Raises:
        TrackError: The path of the runs cannot be part of an address.
        ImportError: SQLAlchemy is not installed.
    """
    return stated_uri() or sqlite_uri(root.resolve() / DATABASE)


def stated_uri() -> str:
    """Return $MLFLOW_TRACKING_URI; empty without one."""
    return os.environ.get(VARIABLE, "").strip()


def scheme_of(uri: str) -> str:
    """Return the scheme without its driver, such as "sqlite"; empty for a path."""
    return uri.partition(":")[0].partition("+")[0].lower() if ":" in uri or uri == "databricks" else ""


def is_server(uri: str) -> bool:
    """True if the store is asked over the network and keeps its own artifacts."""
    return scheme_of(uri) in SERVERS


def sqlite_uri(path: Path) -> str:
    """Return the address of a SQLite file, with every character of its path quoted.

    Raises:
        TrackError: The path is not UTF-8, or the installed SQLAlchemy cannot address it.
        ImportError: SQLAlchemy is not installed.
    """
    from sqlalchemy.engine import URL, make_url

    shown = os.fsencode(path).decode("utf-8", "replace")
    try:
        uri = URL.create("sqlite", database=str(path)).render_as_string()
        is_kept = make_url(uri).database == str(path)
    except UnicodeEncodeError:
        is_kept = False
    if not is_kept:
        raise TrackError(
            f"MLflow's database cannot be addressed at {shown!r}",
            where=shown,
            fix="rename the directory: use UTF-8 without `?` and `%`, or set SCALELAB_RUNS to another one",
        )
    return uri


def sqlite_path(uri: str) -> Path | None:
    """Return the file of a SQLite address; None for other stores and for SQLite's own file: URIs."""
    from sqlalchemy.engine import make_url

    if scheme_of(uri) != "sqlite":
        return None
    name = make_url(uri).database or ""
    return None if name.startswith("file:") else Path(name)


def for_mlflow(uri: str) -> str:
    """Return the address as MLflow is given it, which makes no directory of another name."""
    path = sqlite_path(uri)
    if uri.startswith(PLAIN) and (path is None or uri != f"{PLAIN}{path}"):
        return NAMED_DRIVER + uri.removeprefix(PLAIN)
    return uri


def refusal_of(uri: str) -> str | None:
    """Return why an address cannot be that of a store; None if it may be one."""
    try:
        parts = urlsplit(uri)
        try:
            _ = parts.port
        except ValueError:  # its text repeats what may be the beginning of a password
            return (
                f"{VARIABLE} is not an address: its port is not a number from 0 to 65535 (in a password `/` is written "
                "%2F, and `@` %40)"
            )
        path = sqlite_path(uri)
    except ValueError as error:
        return f"{VARIABLE} is not an address: {error}"
    if path is not None and str(path) in (".", ":memory:"):
        return f"{VARIABLE} names a database in memory, which keeps nothing"
    return None
