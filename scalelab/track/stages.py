"""What a post-training planned: which stages belong to it, and what each of them came to.

    runs/<name>/posttrain.json           the manifest
    runs/<name>/<stage>-<id>/            a stage: journal and result as a run's (train/rundir.py)

The manifest is rewritten whole whenever the post-training is run again. Stages of an earlier
plan of the same name stay on the disk and belong to no list, because they may have another
recipe or another base.

Not here: how stages are mirrored (stage_mirror.py).
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from scalelab.errors import RunError, TrackError
from scalelab.track.kinds import POSTTRAINING
from scalelab.track.state import state_of
from scalelab.train.rundir import RunDir

STATUSES = ("finished", "diverged", "failed")
TOTALS = ("flops", "seconds", "n_tokens")
"""Numbers of every stage's result; None is unknown."""
NEEDED = ("stage", "kind", "status", "metrics", "finished_ms", *TOTALS)
MAIN_METRICS = 3
"""How many of a stage's metrics stand in a line for eyes: the first that it names."""


@dataclass(frozen=True)
class PlannedStage:
    """One stage as it was asked for."""

    stage: str
    """Its name in the file: sft-2000."""
    kind: str
    """What it does: sft, preferences, reward, dpo, ppo, ..."""
    id: str
    """Digest of its spec and of all that goes into it."""
    dir: str
    """Its directory, relative to the root of all runs."""


@dataclass(frozen=True)
class StageManifest:
    """A post-training as it was asked for."""

    name: str
    digest: str
    """Of the whole file with its overrides."""
    question: str
    prediction: str
    config_yaml: str
    """The file, defaults filled in."""
    base: dict[str, Any]
    """What the base model is, in plain JSON values."""
    created_ms: int
    stages: tuple[PlannedStage, ...]

    def write(self, root: Path) -> None:
        """Write it, whole. The time of the first writing is kept, where it can be read.

        Raises:
            TrackError: Two stages are one: both have the same spec and the same inputs.
        """
        by_id: dict[str, str] = {}
        for stage in self.stages:
            if stage.id in by_id:
                raise TrackError(
                    f"the stages {by_id[stage.id]!r} and {stage.stage!r} are the same work",
                    where=f"{self.name}: both have the id {stage.id}",
                    fix="take one of them away, or let them differ, as by their seed",
                )
            by_id[stage.id] = stage.stage
        POSTTRAINING.write(root, self.name, self, StageManifest.load)

    @classmethod
    def load(cls, root: Path, name: str) -> "StageManifest":
        """The manifest of a post-training.

        Raises:
            TrackError: There is no such post-training, or its manifest cannot be read.
        """
        return POSTTRAINING.read(root, name, cls._from_record)

    @classmethod
    def _from_record(cls, record: dict[str, Any]) -> "StageManifest":
        stages = tuple(
            PlannedStage(**{f.name: stage[f.name] for f in fields(PlannedStage)})
            for stage in record["stages"]
        )
        rest = {f.name: record[f.name] for f in fields(cls) if f.name != "stages"}
        if not isinstance(rest["base"], dict):
            raise TypeError(f"base is {rest['base']!r}, not a record")
        return cls(**rest, stages=stages)


def stages_path(root: Path, name: str) -> Path:
    """Where a post-training's manifest lies."""
    return POSTTRAINING.path(root, name)


def list_posttrainings(root: Path) -> list[str]:
    """Names of the post-trainings that have a manifest, sorted."""
    return POSTTRAINING.names(root)


def stage_result(path: Path) -> dict[str, Any] | None:
    """What a stage came to, as its result.json says; None while it has come to nothing yet.

    Args:
        path: The stage's directory.

    Raises:
        RunError: The file is there and is not a stage's result.
    """
    file = RunDir(path).result_path
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        if problem := _no_result(record):
            raise ValueError(problem)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(
            f"result.json cannot be read: {error}",
            where=str(file),
            fix="delete it and run the same command again: the stage goes on from its checkpoint",
        ) from None
    return record


def _no_result(record: Any) -> str | None:
    """Why a record is not a stage's result."""
    if not isinstance(record, dict):
        return "it is not a record"
    if missing := [name for name in NEEDED if name not in record]:
        return f"it has no {', '.join(missing)}"
    if record["status"] not in STATUSES:
        return f"its status is {record['status']!r}, none of {', '.join(STATUSES)}"
    if not isinstance(record["finished_ms"], int):
        return f"its finished_ms is {record['finished_ms']!r}, not a whole number"
    if not isinstance(record["metrics"], dict):
        return "its metrics are not a record"
    numbers = {name: record[name] for name in TOTALS} | record["metrics"]
    for name, value in numbers.items():
        if value is not None and not is_number(value):
            return f"its {name} is {value!r}, not a number"
    return None


def is_number(value: object) -> bool:
    """Whether a JSON value is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class StageEnd:
    """A stage's result, with what every result has at hand."""

    record: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> "StageEnd | None":
        """As stage_result."""
        record = stage_result(path)
        return None if record is None else cls(record)

    @property
    def status(self) -> str:
        """finished, diverged or failed."""
        return self.record["status"]

    @property
    def reason(self) -> str | None:
        """Why a stage that did not finish ended."""
        return self.record.get("reason")

    @property
    def finished_ms(self) -> int:
        """When it ended."""
        return self.record["finished_ms"]

    @property
    def main_metrics(self) -> str:
        """Its first metrics, for eyes."""
        known = {k: v for k, v in self.record["metrics"].items() if v is not None}
        return ", ".join(f"{k} {v:.4g}" for k, v in list(known.items())[:MAIN_METRICS])


def stage_state(path: Path) -> tuple[str, str | None]:
    """Where a stage stands, from its directory alone, and the reason where there is one.

    Raises:
        RunError: Its result is there and cannot be read.
    """
    return state_of(RunDir(path), StageEnd.read(path))
