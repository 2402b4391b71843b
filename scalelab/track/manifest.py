"""What a sweep planned: which runs belong to it, and what was asked for of each.

    runs/<sweep>/sweep.json       sealed; see kinds.py

It is rewritten whole whenever the sweep is run again. A run that another sweep has trained
belongs here too, with the directory it lies in. Runs of an earlier plan of the same name stay
on the disk and belong to no table, because they may have another recipe.
"""

from dataclasses import dataclass
from pathlib import Path

from scalelab.sealed import Damaged
from scalelab.track.kinds import SWEEP, check_name, check_places
from scalelab.train.spec import ParamCount


@dataclass(frozen=True)
class PlannedRun:
    """One run as it was asked for."""

    run: str
    """The run's id."""
    dir: str
    """Its directory, relative to the root of all runs."""
    flops_planned: float | None
    """The slice's budget, FLOPs; None in designs that have no slices."""
    n_params_planned: float
    """Target size, counted as the sweep counts."""
    n_params: int
    """Size of the model that comes nearest, in the same count."""
    n_tokens_planned: float
    """Tokens that the budget buys at that size."""
    n_tokens: int
    """Tokens in whole steps."""
    n_steps: int
    flops: float
    """Exact FLOPs of those steps."""
    seed: int
    group: str | None = None
    """What intervals draw as one: here a digest of the whole spec, which no version of run ids
    changes, so that intervals do not depend on it. None in manifests from before: the run's id."""


@dataclass(frozen=True)
class SweepManifest:
    """A sweep as it was asked for."""

    sweep: str
    digest: str
    """Of the whole sweep file with its overrides."""
    param_count: ParamCount
    question: str
    prediction: str
    target_flops: float | None
    config_yaml: str
    """The sweep file, defaults filled in."""
    created_ms: int
    runs: tuple[PlannedRun, ...]

    def write(self, root: Path) -> None:
        """Write it, whole. The time of the first writing is kept, where it can be read."""
        SWEEP.write(root, self.sweep, self, SweepManifest.load)

    @classmethod
    def load(cls, root: Path, sweep: str) -> "SweepManifest":
        """The manifest of a sweep.

        Raises:
            TrackError: There is no such sweep, or its manifest cannot be read.
            RunError: The name is not a plain one, or a directory is a symbolic link.
        """

        def check(manifest: SweepManifest) -> None:
            check_name(manifest.sweep, sweep)
            check_places(root, ((run.run, run.dir) for run in manifest.runs))
            for run in manifest.runs:
                if Path(run.dir).name != run.run:
                    raise Damaged(f"run {run.run} has the directory {run.dir!r}")

        return SWEEP.read(root, sweep, SWEEP.format(cls), check)


def manifest_path(root: Path, sweep: str) -> Path:
    """Where a sweep's manifest lies."""
    return SWEEP.path(root, sweep)


def list_sweeps(root: Path) -> list[str]:
    """Names of the sweeps that have a manifest, sorted."""
    return SWEEP.names(root)
