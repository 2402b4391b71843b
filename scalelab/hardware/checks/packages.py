"""Installed packages: those that scalelab requires, those of its extras, and MLflow with its server."""

import os
import re
import socket
from urllib.parse import urlsplit

from packaging.requirements import Requirement

from scalelab.hardware.checks.versions import INSTALL, installed_version, requirement, requirements
from scalelab.hardware.finding import Finding, ok, problem, warning
from scalelab.hardware.machine import Machine

SEPARATE = ("torch", "mlflow")
"""Packages with a check of their own."""
DEVELOPMENT = "dev"
"""The extra of scalelab's own tests, which no command needs."""
SERVER_LIMIT_S = 1.0
PORTS = {"http": 80, "https": 443}


def check_packages(machine: Machine) -> Finding:
    """Check the versions of required packages, and of optional ones where they are installed."""
    every = [(r, extra_of(r), installed_version(r.name)) for r in requirements()]
    if not every:
        return warning("unknown: scalelab itself is not installed", INSTALL)
    wanted = [x for x in every if x[0].name not in SEPARATE and x[1] != DEVELOPMENT]
    required = [(r, there) for r, extra, there in wanted if not extra]
    if missing := [r.name for r, there in required if there is None]:
        return problem(f"not installed: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    unfit = [
        (r, there) for r, _, there in wanted if there and not r.specifier.contains(there, prereleases=True)
    ]
    if unfit:
        shown = ", ".join(f"{r.name} {there} (needed: {r.specifier})" for r, there in unfit)
        found = problem if any(not extra_of(r) for r, _ in unfit) else warning
        return found(shown, "pip install " + " ".join(f"'{r.name}{r.specifier}'" for r, _ in unfit))
    optional = {extra: [x for x in wanted if x[1] == extra] for _, extra, _ in wanted if extra}
    whole = [extra for extra, members in optional.items() if all(there for _, _, there in members)]
    absent = [extra for extra in optional if extra not in whole]
    value = f"{len(required)} required packages are installed; optional: {', '.join(whole) or 'none'}"
    if absent:
        value += f"; not installed: {', '.join(absent)} (pip install -e '.[{','.join(absent)}]' adds them)"
    return ok(value)


def check_mlflow(machine: Machine) -> Finding:
    """Check the version of MLflow and, where a server is set, that it accepts connections."""
    there, wanted = installed_version("mlflow"), requirement("mlflow")
    if there is None:
        return warning(
            "not installed; runs are recorded in their directories only",
            "pip install mlflow, then `scalelab sync` copies the runs to it",
        )
    if wanted is not None and not wanted.specifier.contains(there, prereleases=True):
        return warning(f"{there}, and scalelab needs {wanted.specifier}", f"pip install '{wanted}'")
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    address = _server(uri)
    if not address:
        return ok(there)
    shown = f"{address[0]}:{address[1]}"  # without user and password
    try:
        with socket.create_connection(address, timeout=SERVER_LIMIT_S):
            return ok(f"{there}, server {shown}")
    except OSError as error:
        return warning(
            f"{there}, and the server {shown} does not accept connections: {error.strerror or error}",
            "start the server or correct MLFLOW_TRACKING_URI; training goes on without it, and "
            "`scalelab sync` copies the runs later",
        )


def extra_of(wanted: Requirement) -> str:
    """Return the extra that brings a package; empty for a required one."""
    found = re.search(r"extra\s*==\s*['\"]([^'\"]+)", str(wanted.marker or ""))
    return found.group(1) if found else ""


def _server(uri: str) -> tuple[str, int] | None:
    """Host and port of a tracking server; None for a local store or an address without a host."""
    try:
        parts = urlsplit(uri)
        port = parts.port or PORTS.get(parts.scheme)
    except ValueError:
        return None
    return (parts.hostname, port) if parts.scheme in PORTS and parts.hostname and port else None
