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
from scalelab.track.access import (
    Refused,
    StoreDown,
    artifact_root,
    has_mlflow,
    no_mlflow,
    not_taken,
    open_store,
    tracking_uri,
)
from scalelab.track.kinds import every_name

STARTS_WITHIN_S = 90.0
STOPS_WITHIN_S = 10.0


@dataclass(frozen=True)
class Served:
    """A server that answers."""

    url: str
    links: dict[str, str]
    """Name to the page of its experiment; what nobody mirrored has none."""
    process: subprocess.Popen


def ui(root: Path, port: int) -> None:
    """Serve the page until Ctrl-C. Raises TrackError where it cannot be served."""
    uri = tracking_uri(root)
    if uri.startswith("http"):
        print(f"the runs are on a server already: {uri}")
        return
    before = signal.signal(signal.SIGTERM, _interrupt)  # else the server would outlive us
    try:
        with serving(root, port) as served:
            print(f"MLflow is at {served.url}  (Ctrl-C stops it)")
            for name, link in served.links.items():
                print(f"  {name}: {link}")
            if not served.links:
                print("  no sweep is mirrored there yet: scalelab sync")
            sys.stdout.flush()
            served.process.wait()
            raise TrackError(
                f"MLflow's server has ended by itself (status {served.process.returncode})",
                where=str(root / "ui.log"),
                fix="read the log, then start it again",
            )
    except KeyboardInterrupt:
        print()
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def serving(root: Path, port: int) -> Iterator[Served]:
    """A started server; it is stopped, with all its processes, on leaving.

    Raises:
        TrackError: MLflow is missing, the port is taken, or the server does not answer.
    """
    if not has_mlflow():
        raise no_mlflow("is not installed")
    _refuse_taken(port)
    url = f"http://127.0.0.1:{port}"
    links = _links(root, url)
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", tracking_uri(root)]
    command += ["--default-artifact-root", str(artifact_root(root))]
    # Without its job runner the server is two processes instead of fifteen.
    environ = os.environ | {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    log = root / "ui.log"
    with writing(log), open(log, "ab") as out:
        server = subprocess.Popen(
            command, env=environ, stdout=out, stderr=out, start_new_session=True
        )
    try:
        _wait_until_it_answers(url, server, log)
        yield Served(url, links, server)
    finally:
        _stop(server)


def _links(root: Path, url: str) -> dict[str, str]:
    """Pages of the experiments. Makes the database, under its lock, where it is missing."""
    try:
        store = open_store(root)
        found = {name: store.find_experiment(name) for name in every_name(root)}
    except (StoreDown, Refused) as error:
        raise not_taken(root, error) from error
    return {name: f"{url}/#/experiments/{number}/runs" for name, number in found.items() if number}


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise TrackError(
                f"port {port} cannot be used: {error}",
                where="this machine",
                fix=f"choose another: --port {port + 1 if port < 65535 else 5001}",
            ) from None


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
