"""What a sweep planned: which runs belong to it, and what was asked for of each.

    runs/<sweep>/sweep.json

It is rewritten whole whenever the sweep is run again. A run that another sweep has trained
belongs here too, with the directory it lies in. Runs of an earlier plan of the same name stay
on the disk and belong to no table, because they may have another recipe.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from scalelab.track.kinds import SWEEP


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


@dataclass(frozen=True)
class SweepManifest:
    """A sweep as it was asked for."""

    sweep: str
    digest: str
    """Of the whole sweep file with its overrides."""
    param_count: str
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
        """
        return SWEEP.read(root, sweep, cls._from_record)

    @classmethod
    def _from_record(cls, record: dict[str, Any]) -> "SweepManifest":
        runs = tuple(
            PlannedRun(**{f.name: run[f.name] for f in fields(PlannedRun)})
            for run in record["runs"]
        )
        return cls(**{f.name: record[f.name] for f in fields(cls) if f.name != "runs"}, runs=runs)


def manifest_path(root: Path, sweep: str) -> Path:
    """Where a sweep's manifest lies."""
    return SWEEP.path(root, sweep)


def list_sweeps(root: Path) -> list[str]:
    """Names of the sweeps that have a manifest, sorted."""
    return SWEEP.names(root)
