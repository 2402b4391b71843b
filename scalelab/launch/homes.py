"""Where a run that several sweeps ask for is trained: in one directory, whoever asked first.

    runs/.homes/<run id>-000001.json     {"run": ..., "sweep": ...}: runs/<sweep>/<run id>/

Sweeps that start together would otherwise each train it in a directory of their own. The first of
them writes down its home, in one step, and the others read it. A home whose sweep was deleted from
the disk is followed by another one, with the next number.

Not here: who trains it there (leases.py).
"""

from dataclasses import dataclass
from pathlib import Path

from scalelab.files import inside, is_component, write_new
from scalelab.leases import numbered, numbers
from scalelab.sealed import Format
from scalelab.train.rundir import RunDir
from scalelab.train.spec import RunSpec

HOMES = ".homes"


@dataclass(frozen=True)
class Home:
    """In which sweep's directory a run is trained."""

    run: str
    sweep: str


HOME = Format("home of a run", Home, schema=1, fix="delete it and run the same command again")


def find(spec: RunSpec, root: Path, sweep: str) -> RunDir:
    """The directory of a run as things stand; nothing is written.

    Args:
        spec: Of the run.
        root: Of all runs.
        sweep: The sweep that asks; it becomes the home of a run that no other has asked for.
    """
    return _find(spec, root, sweep, _newest(root, spec.id)[1])


def settle(spec: RunSpec, root: Path, sweep: str) -> RunDir:
    """The same, written down for whoever asks next. The sweep's own directory must exist.

    Raises:
        RunError: The directory of all runs cannot be written, or a home does not hold.
    """
    while True:
        number, home = _newest(root, spec.id)
        found = _find(spec, root, sweep, home)
        chosen = found.path.parent.name
        if found.is_done or (home is not None and home.sweep == chosen):
            return found
        inside(root, f"{chosen}/{found.run}")
        text = HOME.text(Home(spec.id, chosen))
        if write_new(numbered(root / HOMES, spec.id, number + 1), text, flush=False):
            return found
        # Another sweep was faster since we looked: its answer counts.


def _find(spec: RunSpec, root: Path, sweep: str, home: Home | None) -> RunDir:
    own = RunDir.of(spec, root, sweep)
    if own.is_done:
        return own
    there = [RunDir(path) for run in spec.ids for path in sorted(root.glob(f"[!.]*/{run}"))]
    if done := next((run_dir for run_dir in there if run_dir.is_done), None):
        return done
    if home is not None and (root / home.sweep).is_dir():
        return RunDir.of(spec, root, home.sweep)
    begun = next((run_dir for run_dir in there if run_dir.log_path.exists()), None)
    return begun if begun is not None and not own.log_path.exists() else own


def _newest(root: Path, run: str) -> tuple[int, Home | None]:
    """The number of the newest home of a run, 0 without one, and the home itself."""
    number = max(numbers(root / HOMES, run), default=0)
    if number == 0:
        return 0, None
    path = numbered(root / HOMES, run, number)
    home = HOME.read(path)
    if home.run != run or not is_component(home.sweep):
        raise HOME.refusal(path, f"it names run {home.run!r} in the sweep {home.sweep!r}")
    return number, home
