"""The directory of all runs: that it, or the directory in which it will be made, can be written."""

import os
import tempfile
from pathlib import Path

from scalelab.hardware.finding import Finding, ok, problem
from scalelab.hardware.machine import Machine

FIX = "correct the permissions, or set SCALELAB_RUNS to a directory that can be written"


def check_run_directory(machine: Machine) -> Finding:
    """Check that files can be written, renamed and removed where runs are kept. Nothing is left there."""
    place = existing_part(machine.runs)
    if not place.is_dir():
        return problem(f"{place} is not a directory", "set SCALELAB_RUNS to a directory")
    try:
        with tempfile.TemporaryDirectory(prefix=".scalelab-doctor-", dir=place) as directory:
            draft = Path(directory, "draft")
            draft.write_bytes(b"x")
            os.replace(draft, Path(directory, "file"))
    except OSError as error:
        return problem(f"cannot write to {place}: {error.strerror or error}", FIX)
    shown = str(machine.runs.absolute())
    return ok(f"{shown} can be written" if place == machine.runs.absolute() else f"{shown} can be made")


def existing_part(path: Path) -> Path:
    """Return the path itself if it exists, else the nearest of its parents that does."""
    path = path.absolute()
    while not os.path.lexists(path) and path != path.parent:
        path = path.parent
    return path
