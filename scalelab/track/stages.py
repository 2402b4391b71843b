"""What a post-training planned: which stages belong to it, and what each of them came to.

    runs/<name>/posttrain.json           the manifest
    runs/<name>/<stage>-<id>/            a stage: journal and result as a run's (train/rundir.py)

The manifest is rewritten whole whenever the post-training is run again. Stages of an earlier
plan of the same name stay on the disk and belong to no list, because they may have another
recipe or another base.

Not here: how stages are mirrored (stage_mirror.py).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from scalelab.errors import RunError, TrackError
from scalelab.files import is_component
from scalelab.sealed import Damaged, Format
from scalelab.track.kinds import POSTTRAINING, check_name, check_places
from scalelab.track.state import state_of
from scalelab.train.rundir import RunDir

TOTALS = ("flops", "seconds", "n_tokens")
"""Numbers of every stage's result; None is unknown."""
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
            RunError: The name is not a plain one, or a directory is a symbolic link.
        """

        def check(manifest: StageManifest) -> None:
            check_name(manifest.name, name)
            check_places(root, ((stage.id, stage.dir) for stage in manifest.stages))
            for stage in manifest.stages:
                if not is_component(stage.stage):
                    raise Damaged(f"{stage.stage!r} is not a plain name")

        return POSTTRAINING.read(root, name, POSTTRAINING.format(cls), check)


def stages_path(root: Path, name: str) -> Path:
    """Where a post-training's manifest lies."""
    return POSTTRAINING.path(root, name)


def list_posttrainings(root: Path) -> list[str]:
    """Names of the post-trainings that have a manifest, sorted."""
    return POSTTRAINING.names(root)


@dataclass(frozen=True)
class StageResult:
    """What a stage came to: result.json of its directory, written last, and once."""

    stage: str
    """Its name in the file."""
    kind: str
    id: str
    status: Literal["finished", "diverged", "failed"]
    reason: str | None
    """Why a stage that did not finish ended."""
    metrics: dict[str, int | float | None]
    flops: float | None
    """Spent by all its models, forward and backward; reckoned from tokens. None: unknown."""
    flops_by: dict[str, float]
    n_tokens: int | None
    """Tokens that went through the trained model, forward and backward or written."""
    memory_bytes: dict[str, int]
    """What the method holds, by part, reckoned: weights, gradients, moments, references."""
    seconds: float | None
    device: str
    n_resumes: int
    versions: dict[str, str]
    finished_ms: int
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 of what the stage leaves for others, by name. None of them: from before the seals."""

    @property
    def main_metrics(self) -> str:
        """Its first metrics, for eyes."""
        known = {k: v for k, v in self.metrics.items() if v is not None}
        return ", ".join(f"{k} {v:.4g}" for k, v in list(known.items())[:MAIN_METRICS])


STAGE_RESULT = Format("stage result", StageResult, schema=2, unsealed=1)
REDO = "scalelab posttrain FILE.yaml"
"""The command that does a stage again."""


def stage_id(path: Path) -> str:
    """The id that a stage's directory is named after."""
    return path.name.rpartition("-")[2]


def stage_result(path: Path) -> StageResult | None:
    """What a stage came to; None while it has come to nothing yet.

    Args:
        path: The stage's directory.

    Raises:
        RunError: The file is there and is not the result of this stage.
    """
    run_dir = RunDir(path)
    try:
        result = STAGE_RESULT.read(run_dir.result_path)
    except FileNotFoundError:
        return None
    except RunError as error:
        raise RunError(error.problem, where=error.where, fix=run_dir.how_to_redo(REDO)) from None
    if f"{result.stage}-{result.id}" != path.name:
        raise RunError(
            f"result.json is that of stage {result.stage}-{result.id}, not of {path.name}",
            where=str(run_dir.result_path),
            fix=run_dir.how_to_redo(REDO),
        )
    return result


def is_number(value: object) -> bool:
    """Whether a JSON value is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def stage_state(path: Path) -> tuple[str, str | None]:
    """Where a stage stands, from its directory alone, and the reason where there is one.

    Raises:
        RunError: Its result is there and cannot be read.
    """
    return state_of(RunDir(path), stage_result(path))
