"""Manifest of a sweep: its runs, each with what was requested.

    runs/<sweep>/sweep.json       sealed; see manifest_kinds.py

It is rewritten whole whenever the sweep is run again. A run that another sweep has trained
is listed too, with its directory. Runs of an earlier plan of the same name stay on the disk but are in
no table, because their recipe may differ.
"""

from dataclasses import dataclass
from pathlib import Path

from scalelab.errors import DataError
from scalelab.records.manifest_kinds import SWEEP, check_name, check_places
from scalelab.sealed import Damaged
from scalelab.train.spec import ParamCount


@dataclass(frozen=True)
class PlannedRun:
    """One run as requested."""

    run: str
    """The run's id."""
    dir: str
    """Directory of the run, relative to the directory of all runs."""
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
    """Resampling unit of intervals: the trunk of a branch, else a digest of the whole spec, independent of
    the version of run ids. None in older manifests, where the run's id is used."""
    trunk: str | None = None
    """Digest of the trunk that the run branches from, equal for its branches; None: it shares nothing."""
    trunk_dir: str | None = None
    """Directory in which that trunk is trained, relative to the directory of all runs."""
    schedule: str | None = None
    """Kind of its schedule, and how it comes down, in words: by a share, or by a rule of the recipe. None in older
    manifests."""
    validates: str | None = None
    """Id of the branch that this separate run is compared with; such a run is not fitted. None: it is none."""


@dataclass(frozen=True)
class SweepManifest:
    """A sweep as requested."""

    sweep: str
    digest: str
    """Digest of the whole sweep file with its overrides."""
    param_count: ParamCount
    question: str
    prediction: str
    target_flops: float | None
    config_yaml: str
    """The sweep file, defaults filled in."""
    created_ms: int
    runs: tuple[PlannedRun, ...]
    source: str | None = None
    """Name of the sweep that a final run was planned from; None for sweeps, and in older manifests."""
    tuned: tuple[str, ...] = ()
    """Fields of the recipe in which the runs differ beside its rules: they are trials of a tuning, and no points of a
    law. Empty for sweeps, and in older manifests."""
    validation_digest: str | None = None
    """Digest of the validation tokens that the runs are evaluated on; None in older manifests."""

    def write(self, root: Path) -> None:
        """Write the manifest atomically, keeping the creation time of an earlier one."""
        SWEEP.write(root, self.sweep, self, SweepManifest.load)

    def refuse_tuned(self) -> None:
        """Raise DataError for trials of a tuning, where points of a law are needed."""
        if self.tuned:
            raise DataError(
                f"the runs of {self.sweep} differ in {' and '.join(self.tuned)}: they are trials of a tuning, and no "
                "points of a law",
                where=f"the manifest of {self.sweep}",
                fix=f"train a sweep by the tuned recipe and name that: scalelab sweep reports/{self.sweep}/recipe.yaml",
            )

    @classmethod
    def load(cls, root: Path, sweep: str) -> "SweepManifest":
        """Return the manifest of a sweep.

        Raises:
            TrackError: There is no such sweep, or its manifest cannot be read.
            RunError: The name is not a plain one, or a directory is a symbolic link.
        """

        def check(manifest: SweepManifest) -> None:
            check_name(manifest.sweep, sweep)
            check_places(root, ((run.run, run.dir) for run in manifest.runs))
            trunks = {run.trunk_dir for run in manifest.runs if run.trunk_dir is not None}
            check_places(root, ((Path(trunk).name, trunk) for trunk in sorted(trunks)))
            for run in manifest.runs:
                if Path(run.dir).name != run.run:
                    raise Damaged(f"run {run.run} has the directory {run.dir!r}")

        return SWEEP.read(root, sweep, SWEEP.format(cls), check)


def manifest_path(root: Path, sweep: str) -> Path:
    """Return the path of a sweep's manifest."""
    return SWEEP.path(root, sweep)


def list_sweeps(root: Path) -> list[str]:
    """Names of the sweeps that have a manifest, sorted."""
    return SWEEP.names(root)
