"""What a sweep planned: which runs belong to it, and what was asked for of each.

    runs/<sweep>/sweep.json

It is rewritten whole whenever the sweep is run again. A run that another sweep has trained
belongs here too, with the directory it lies in. Runs of an earlier plan of the same name stay
on the disk and belong to no table, because they may have another recipe.
"""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from scalelab.errors import TrackError
from scalelab.files import write_json


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
        first = self.created_ms
        if manifest_path(root, self.sweep).exists():
            with suppress(TrackError):  # what cannot be read is mended by writing it anew
                first = SweepManifest.load(root, self.sweep).created_ms
        record = {"schema": 1, **asdict(replace(self, created_ms=first))}
        write_json(manifest_path(root, self.sweep), record)

    @classmethod
    def load(cls, root: Path, sweep: str) -> "SweepManifest":
        """The manifest of a sweep.

        Raises:
            TrackError: There is no such sweep, or its manifest cannot be read.
        """
        path = manifest_path(root, sweep)
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            runs = tuple(
                PlannedRun(**{f.name: run[f.name] for f in fields(PlannedRun)})
                for run in record["runs"]
            )
            rest = {f.name: record[f.name] for f in fields(cls) if f.name != "runs"}
            return cls(**rest, runs=runs)
        except FileNotFoundError:
            there = ", ".join(list_sweeps(root)) or "none"
            raise TrackError(
                f"there is no sweep {sweep!r}",
                where=f"{root}, which holds: {there}",
                fix="name one of these, or train it: scalelab sweep FILE.yaml",
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TrackError(
                f"the manifest of {sweep!r} cannot be read: {error}",
                where=str(path),
                fix="run `scalelab sweep` on its file again: it writes the manifest anew",
            ) from None


def manifest_path(root: Path, sweep: str) -> Path:
    """Where a sweep's manifest lies."""
    return root / sweep / "sweep.json"


def list_sweeps(root: Path) -> list[str]:
    """Names of the sweeps that have a manifest, sorted."""
    return sorted(path.parent.name for path in root.glob("*/sweep.json"))
