"""The one directory of a run that several sweeps request: that of the first sweep.

    runs/.homes/<run id>-000001.json     {"run": ..., "sweep": ...}: runs/<sweep>/<run id>/

Sweeps that start together would otherwise each train it in their own directory. The first one
records the location atomically, and the others read it. If that sweep is deleted from the disk, a
new location is recorded under the next number.

Not here: which process trains it (leases.py).
"""

from dataclasses import dataclass
from pathlib import Path

from scalelab.files import dirs_with, inside, is_component, is_dir, write_new
from scalelab.leases import numbered, numbers
from scalelab.sealed import Format
from scalelab.train.run_directory import RunDir
from scalelab.train.spec import RunSpec

HOMES = ".homes"


@dataclass(frozen=True)
class RunLocation:
    """The sweep in whose directory a run is trained."""

    run: str
    sweep: str


HOME = Format("home of a run", RunLocation, schema=1, fix="delete it and run the same command again")


def find(spec: RunSpec, root: Path, sweep: str) -> RunDir:
    """Return the directory of a run according to the disk; nothing is written.

    Args:
        spec: Spec of the run.
        root: Directory of all runs.
        sweep: Name of the requesting sweep; a run that no other sweep requested belongs to it.
    """
    return _find(spec, root, sweep, _newest(root, spec.id)[1])


def settle(spec: RunSpec, root: Path, sweep: str) -> RunDir:
    """Return the run directory of find, and record it for later sweeps. The sweep's directory must exist.

    Raises:
        RunError: The directory of all runs cannot be written, or a location record is damaged.
    """
    while True:
        number, home = _newest(root, spec.id)
        found = _find(spec, root, sweep, home)
        chosen = found.path.parent.name
        if found.is_done or (home is not None and home.sweep == chosen):
            return found
        inside(root, f"{chosen}/{found.run}")
        text = HOME.text(RunLocation(spec.id, chosen))
        if write_new(numbered(root / HOMES, spec.id, number + 1), text, flush=False):
            return found
        # Another sweep recorded a location first: use that one.


def _find(spec: RunSpec, root: Path, sweep: str, home: RunLocation | None) -> RunDir:
    own = RunDir.of(spec, root, sweep)
    if own.is_done:
        return own
    found = [place / run for run in spec.ids for place in dirs_with(root, run)]
    there = [RunDir(path) for path in found if not path.parent.name.startswith(".")]
    if done := next((run_dir for run_dir in there if run_dir.is_done), None):
        return done
    if home is not None and is_dir(root / home.sweep):
        return RunDir.of(spec, root, home.sweep)
    begun = next((run_dir for run_dir in there if run_dir.is_begun), None)
    return begun if begun is not None and not own.is_begun else own


def _newest(root: Path, run: str) -> tuple[int, RunLocation | None]:
    """Number of the newest location record of a run, 0 without one, and the record itself."""
    number = max(numbers(root / HOMES, run), default=0)
    if number == 0:
        return 0, None
    path = numbered(root / HOMES, run, number)
    home = HOME.read(path)
    if home.run != run or not is_component(home.sweep):
        raise HOME.refusal(path, f"it names run {home.run!r} in the sweep {home.sweep!r}")
    return number, home
