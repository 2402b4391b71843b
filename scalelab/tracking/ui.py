"""MLflow's own web page over our runs: `scalelab ui`."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from scalelab.errors import TrackError
from scalelab.files import writing
from scalelab.records.manifest_kinds import every_name
from scalelab.screen import echo
from scalelab.tracking.chart_views import experiment_link
from scalelab.tracking.redaction import redact
from scalelab.tracking.store_access import artifact_home, has_mlflow, no_mlflow, not_taken, open_store
from scalelab.tracking.store_errors import StoreDown, StoreRefused
from scalelab.tracking.store_uri import for_mlflow, is_server, stated_uri, tracking_uri

STARTS_WITHIN_S = 90.0
STOPS_WITHIN_S = 10.0


@dataclass(frozen=True)
class RunningServer:
    """A server that has started."""

    url: str
    links: dict[str, str]
    """Name to the page of its experiment; names that are not mirrored are absent."""
    process: subprocess.Popen


def ui(root: Path, port: int) -> None:
    """Serve MLflow's page until Ctrl-C. Raises TrackError if that fails."""
    if is_server(stated_uri()):
        echo(f"the runs are on a server already: {redact(stated_uri())}")
        return
    before = signal.signal(signal.SIGTERM, _interrupt)  # else the server would outlive us
    try:
        with serving(root, port) as served:
            echo(f"MLflow is at {served.url}  (Ctrl-C stops it)")
            for name, link in served.links.items():
                echo(f"  {name}: {link}")
            if not served.links:
                echo("  no sweep is mirrored there yet: scalelab sync")
            sys.stdout.flush()
            served.process.wait()
            raise TrackError(
                f"MLflow's server has ended by itself (status {served.process.returncode})",
                where=str(root / "ui.log"),
                fix="read the log, then start it again",
            )
    except KeyboardInterrupt:
        echo()
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def serving(root: Path, port: int) -> Iterator[RunningServer]:
    """Start a server; on exit it is stopped with all its processes.

    Raises:
        TrackError: MLflow is missing, the port is taken, or the server does not answer.
    """
    if not has_mlflow():
        raise no_mlflow("is not installed")
    port = _free(port)
    url = f"http://127.0.0.1:{port}"
    links = _links(root, url)
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    log = root / "ui.log"
    with writing(log), open(log, "ab") as out:
        server = subprocess.Popen(command, env=_environ(root), stdout=out, stderr=out, start_new_session=True)
    try:
        _wait_until_it_answers(url, server, log)
        yield RunningServer(url, links, server)
    finally:
        _stop(server)


def _links(root: Path, url: str) -> dict[str, str]:
    """Pages of the experiments. Creates a missing database under its lock."""
    try:
        store = open_store(root)
        found = {name: store.find_experiment(name) for name in every_name(root)}
    except (StoreDown, StoreRefused) as error:
        raise not_taken(root, error) from error
    return {name: f"{url}/{experiment_link(number)}" for name, number in found.items() if number}


def _environ(root: Path) -> dict[str, str]:
    """The server's environment. Addresses with passwords would be seen by all as arguments."""
    uri = tracking_uri(root)
    environ = {
        "MLFLOW_BACKEND_STORE_URI": for_mlflow(uri),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # two processes instead of fifteen
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    if (home := artifact_home(root)) is not None:
        environ["MLFLOW_ARTIFACTS_DESTINATION"] = home.directory.as_uri()
    return os.environ | environ


def _free(port: int) -> int:
    """The port, or a free one for 0. Raises TrackError if it cannot be used."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            other = port + 1 if 0 < port < 65535 else 0
            raise TrackError(
                f"port {port} cannot be used: {error}",
                where="this machine",
                fix=f"choose another: --port {other}" + ("" if other else ", which takes a free one"),
            ) from None
        return probe.getsockname()[1]


def _stop(server: subprocess.Popen) -> None:
    for number, patience_s in ((signal.SIGTERM, STOPS_WITHIN_S), (signal.SIGKILL, None)):
        try:
            os.killpg(server.pid, number)
        except ProcessLookupError:
            break
        try:
            server.wait(patience_s)
        except subprocess.TimeoutExpired:
            continue
    server.wait()


def _wait_until_it_answers(url: str, server: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise TrackError(
        "MLflow's server did not start",
        where=str(log),
        fix="read the log; `python -m mlflow doctor` checks the installation",
    )
