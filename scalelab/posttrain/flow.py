"""A post-training file: what is asked for, in which order it is done, and where it lies.

    runs/<name>/posttrain.json        the manifest (track/stages.py)
    runs/<name>/<stage>-<id>/         each stage

Stages whose inputs are there are done side by side, each in a process of its own, as many as
there are CPU cores (one on a GPU). What is done is not done again; what was stopped goes on.

Not here: one stage (loop.py), what is printed and drawn (the report room).
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from scalelab.config import Config, Count, Name, Switch, Whole, plugin
from scalelab.data.hashing import sha256
from scalelab.errors import ConfigError, RunError
from scalelab.evals import CONVERSATIONS
from scalelab.evals.checkpoint import model_digest
from scalelab.files import make_dir, write_text
from scalelab.posttrain import STAGES
from scalelab.posttrain.base import FORMAT, StageDir
from scalelab.posttrain.pairs import is_file
from scalelab.track.stages import PlannedStage, StageManifest
from scalelab.train.rundir import RunDir

BASE = "base"
MODELS = ("sft", "dpo", "ppo", "rloo", "grpo")
"""Kinds of stages that leave a model that answers."""


class Grades(Config):
    """How every model is graded."""

    prompts: Count = 300
    """Held-out prompts of each test set."""
    sampled: Switch = True
    """Grade drawn answers of the first test set too."""
    retention_tokens: Whole = 131_072
    """Tokens of the base's validation text, to see what was forgotten; 0 for none."""


class PosttrainFile(Config):
    """Everything that one post-training is, as a person writes it."""

    name: Name
    """Of the folder in runs/, and of the experiment in MLflow."""
    question: str = ""
    prediction: str = ""
    """What is expected, written down before."""
    base: str
    """A plan's directory, a run's, a checkpoint's, or the name of a plan that was launched."""
    data: plugin(CONVERSATIONS)
    """Where conversations come from."""
    seed: Whole = 0
    stages: tuple[plugin(STAGES), ...] = Field(min_length=1)
    """In the order in which they may need one another."""
    grades: Grades | None = Grades()
    """None: nothing is graded."""

    @model_validator(mode="after")
    def _stages_follow_one_another(self) -> Self:
        known = {BASE}
        for stage in self.stages:
            for need in stage.needs():
                if need not in known:
                    raise ValueError(
                        f"stage {stage.name!r} needs {need!r}, which is no stage before it "
                        f"(there are: {', '.join(sorted(known))})"
                    )
            if stage.name in known:
                raise ValueError(f"two stages are named {stage.name!r}")
            known |= {part.name for part in stage.expand()}
        return self


class Source(Config):
    """An input of a stage, where it lies and what it is."""

    path: str
    id: str
    """The stage's id, or the digest of the base's weights."""


class StageSpec(Config):
    """Everything that decides one stage: spec.yaml of its directory."""

    stage: plugin(STAGES)
    data: plugin(CONVERSATIONS)
    data_digest: str
    """Of the conversations."""
    seed: Whole
    given: dict[str, Source]
    format: int = FORMAT

    @property
    def id(self) -> str:
        """Twelve hex digits of all that decides the stage. Where its inputs lie does not."""
        said = self.model_dump(mode="json")
        said["given"] = {name: source["id"] for name, source in said["given"].items()}
        del said["data"]  # its digest says what it holds; where that lies decides nothing
        for judge in [said["stage"].get("judge"), *(said["stage"].get("others") or ())]:
            if judge and "/" in str(judge.get("model")):
                del judge["model"]
        for model in ("first", "second"):
            if "/" in str(said["stage"].get(model)):
                del said["stage"][model]
        if is_file(str(said["stage"].get("pairs"))):
            del said["stage"]["pairs"]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Planned:
    """One stage and its place."""

    spec: StageSpec
    dir: StageDir

    @property
    def name(self) -> str:
        """Of the stage."""
        return self.spec.stage.name


def plan(file: PosttrainFile, base: Path, root: Path) -> list[Planned]:
    """Every stage in order, series expanded, grades added, each with its directory.

    Raises:
        DataError: The conversations cannot be read.
        RunError: The base has no weights.
    """
    weights = base / "model.safetensors"
    if not weights.exists():
        raise RunError(
            "the base model has no weights",
            where=str(weights),
            fix="finish its run, or name another base",
        )
    digest = file.data.fingerprint()
    sources = {BASE: Source(path=str(base), id=contents(base))}
    found: list[Planned] = []
    for stage in _with_grades(file):
        spec = StageSpec(
            stage=stage,
            data=file.data,
            data_digest=digest,
            seed=file.seed,
            given={name: sources[name] for name in stage.needs()}
            | {place: Source(path=place, id=contents(Path(place))) for place in stage.files()},
        )
        path = root / file.name / f"{stage.name}-{spec.id}"
        sources[stage.name] = Source(path=str(path), id=spec.id)
        found.append(Planned(spec, StageDir(RunDir(path))))
    return found


def _with_grades(file: PosttrainFile) -> list:
    from scalelab.posttrain.grade import Grade  # a stage that is added, not asked for

    stages = [part for stage in file.stages for part in stage.expand()]
    if file.grades is None:
        return stages
    names = [BASE, *(stage.name for stage in stages if stage.kind in MODELS)]
    settings = file.grades.model_dump()
    return [*stages, *(Grade(name=f"grade.{name}", model=name, **settings) for name in names)]


def write_down(
    file: PosttrainFile, stages: Sequence[Planned], base: Mapping[str, object], root: Path
) -> None:
    """Write the manifest and every stage's spec, before anything is done."""
    make_dir(root / file.name)
    StageManifest(
        name=file.name,
        digest=file.digest,
        question=file.question,
        prediction=file.prediction,
        config_yaml=file.to_yaml(),
        base=dict(base),
        created_ms=time.time_ns() // 1_000_000,
        stages=tuple(
            PlannedStage(
                stage=p.name, kind=p.spec.stage.kind, id=p.spec.id,
                dir=str(p.dir.path.relative_to(root)),
            )
            for p in stages
        ),
    ).write(root)  # fmt: skip
    for planned in stages:
        make_dir(planned.dir.path)
        place, text = planned.dir.run_dir.spec_path, planned.spec.to_yaml()
        # The id says that it is the same work; where its inputs lie may have changed since.
        if not place.exists() or place.read_text(encoding="utf-8") != text:
            write_text(place, text)


def contents(path: Path) -> str:
    """Twelve hex digits of a file, or of a model: its weights, its config and its tokenizer.

    Raises:
        DataError: It is not there, or cannot be read.
    """
    if not path.is_dir():
        return sha256(path)[:12]
    if (path / "reward.safetensors").exists():
        return sha256(path / "reward.safetensors")[:12]
    return model_digest(path)


def find_base(said: str, root: Path) -> Path:
    """The directory of the base model.

    Raises:
        ConfigError: Nothing of that name is here, or it is a plan that was not launched.
    """
    from scalelab.plan.final import Plan

    for place in (Path(said), Path("plans") / said):
        if (place / "plan.json").exists():
            launched = Plan.load(place)
            if launched.spec is None:
                raise ConfigError(
                    "the plan holds no run", where=str(place), fix="name a run's directory"
                )
            return root / launched.name / launched.spec.digest
        if any((place / name).exists() for name in ("spec.yaml", "model.json", "config.json")):
            return place
    raise ConfigError(
        f"there is no model {said!r}",
        where="base",
        fix="name a plan that was launched (plans/NAME), a finished run's directory, or a "
        "checkpoint's",
    )
