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
from pathlib import Path

from scalelab.errors import TrackError
from scalelab.track.mirror import artifact_root, has_mlflow, open_store, tracking_uri

STARTS_WITHIN_S = 90.0


def ui(root: Path, port: int) -> None:
    """Serve the page until Ctrl-C. Raises TrackError where it cannot be served."""
    uri = tracking_uri(root)
    if uri.startswith("http"):
        print(f"the runs are on a server already: {uri}")
        return
    with serving(root, port) as url:
        print(f"MLflow is at {url}  (Ctrl-C stops it)", flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            print()


@contextmanager
def serving(root: Path, port: int) -> Iterator[str]:
    """The address of a started server; it is stopped on leaving.

    Raises:
        TrackError: MLflow is missing, the port is taken, or the server does not answer.
    """
    if not has_mlflow():
        raise TrackError(
            "MLflow is not installed", where="this Python's packages", fix="pip install mlflow"
        )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise TrackError(
                f"port {port} is taken", where="this machine", fix=f"--port {port + 1}"
            ) from None
    open_store(root)  # make the database here, under its lock, not in the server's workers
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
    with open(log, "ab") as out:
        server = subprocess.Popen(
            command, env=environ, stdout=out, stderr=out, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_it_answers(url, server, log)
        yield url
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _wait_until_it_answers(url: str, server: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):  # noqa: S310 - our own server
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise TrackError(
        "MLflow's server did not start",
        where=str(log),
        fix="read the log; `python -m mlflow doctor` checks the installation",
    )
