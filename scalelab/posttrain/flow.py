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
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from scalelab.config import (
    Config,
    Count,
    Name,
    Switch,
    Whole,
    changed,
    digest_without,
    later_fields,
    parse_yaml,
    plugin,
    short_hash,
)
from scalelab.errors import ConfigError, RunError
from scalelab.evals import CONVERSATIONS
from scalelab.evals.inputs import MODEL, contents
from scalelab.files import make_dir, refuse_links_in, write_text
from scalelab.jobs import EXECUTORS
from scalelab.jobs.local import LocalConfig
from scalelab.posttrain import STAGES
from scalelab.posttrain.base import FORMAT, StageDir
from scalelab.sealed import seal_text
from scalelab.track.stages import PlannedStage, StageManifest
from scalelab.train.rundir import RunDir, read_sealed_yaml

ID_SCHEMA = 2
"""Version of what a stage's id covers. 1 was the whole spec, defaults included."""
BASE = "base"


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
    executor: plugin(EXECUTORS) = Field(LocalConfig(), json_schema_extra={"since": 2})
    """What carries the stages. It decides nothing that they come to."""

    @property
    def digest(self) -> str:
        """Twelve hex digits that name what is asked for, however it is executed."""
        return digest_without(self, after=1)

    @model_validator(mode="after")
    def _stages_follow_one_another(self) -> Self:
        left: dict[str, str | None] = {BASE: MODEL}
        for stage in self.stages:
            for one in stage.inputs():
                if one.is_path:
                    continue
                if one.name not in left:
                    raise ValueError(
                        f"stage {stage.name!r} needs {one.name!r}, which is no stage before it "
                        f"(there are: {', '.join(sorted(left))})"
                    )
                if left[one.name] != one.kind:
                    raise ValueError(
                        f"stage {stage.name!r} reads {one.kind} from {one.name!r}, which leaves "
                        f"{left[one.name] or 'nothing for other stages'}"
                    )
            if stage.name in left:
                raise ValueError(f"two stages are named {stage.name!r}")
            left |= {part.name: part.leaves for part in stage.expand()}
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
        """Twelve hex digits of all that decides the stage. Where its inputs lie does not.

        They cover what differs from the defaults, so a new setting with a default changes no id.
        A changed default would change what old ids mean: raise ID_SCHEMA with it.
        """
        files = {name: f"content {self.given[name].id}" for name in self.stage.files()}
        return short_hash({
            "schema": ID_SCHEMA,
            "format": self.format,
            "stage": _renamed(changed(self.stage), files),
            "data": self.data_digest,
            "seed": self.seed,
            "given": {name: self.given[name].id for name in self.stage.needs()},
        })  # fmt: skip

    @property
    def first_id(self) -> str:
        """The id under which the same stage is found from before ID_SCHEMA 2."""
        said = self.model_dump(mode="json", exclude=later_fields(self, after=1))
        said["given"] = {name: source["id"] for name, source in said["given"].items()}
        del said["data"]
        said["stage"] = _without(said["stage"], self.stage.files())
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """JSON types with other words for some texts."""
    if isinstance(value, dict):
        return {key: _renamed(inner, names) for key, inner in value.items()}
    if isinstance(value, list):
        return [_renamed(inner, names) for inner in value]
    return names.get(value, value) if isinstance(value, str) else value


def _without(value: Any, texts: Collection[str]) -> Any:
    """JSON types without the keys whose values are one of some texts."""
    if isinstance(value, dict):
        return {k: _without(inner, texts) for k, inner in value.items() if not _is(inner, texts)}
    return [_without(inner, texts) for inner in value] if isinstance(value, list) else value


def _is(value: Any, texts: Collection[str]) -> bool:
    return isinstance(value, str) and value in texts


@dataclass(frozen=True)
class Planned:
    """One stage and its place."""

    spec: StageSpec
    dir: StageDir

    @property
    def name(self) -> str:
        """Of the stage."""
        return self.spec.stage.name

    @property
    def id(self) -> str:
        """The id that the stage goes by: its own, or the one from before ID_SCHEMA 2."""
        return self.dir.id


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
    first = dict(sources)
    found: list[Planned] = []
    for stage in _with_grades(file):
        files = {place: Source(path=place, id=contents(Path(place))) for place in stage.files()}
        common = {"stage": stage, "data": file.data, "data_digest": digest, "seed": file.seed}
        spec = StageSpec(**common, given={name: sources[name] for name in stage.needs()} | files)
        old = StageSpec(**common, given={name: first[name] for name in stage.needs()} | files)
        place, before = (
            root / file.name / f"{stage.name}-{stage_id}" for stage_id in (spec.id, old.first_id)
        )
        first[stage.name] = Source(path=str(before), id=old.first_id)
        if _is_begun(place) or not _goes_on(before, old.given == spec.given):
            sources[stage.name] = Source(path=str(place), id=spec.id)
            found.append(Planned(spec, StageDir(RunDir(place))))
        else:
            sources[stage.name] = first[stage.name]
            found.append(Planned(old, StageDir(RunDir(before))))
    return found


def _is_begun(path: Path) -> bool:
    return RunDir(path).is_done or RunDir(path).log_path.exists()


def _goes_on(before: Path, has_its_inputs: bool) -> bool:
    """Whether a stage under its first id is used: it is done, or begun and can be ended."""
    return RunDir(before).is_done or (has_its_inputs and _is_begun(before))


def _with_grades(file: PosttrainFile) -> list:
    from scalelab.posttrain.grade import Grade  # a stage that is added, not asked for

    stages = [part for stage in file.stages for part in stage.expand()]
    if file.grades is None:
        return stages
    names = [BASE, *(stage.name for stage in stages if stage.leaves == MODEL)]
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
                stage=p.name, kind=p.spec.stage.kind, id=p.id,
                dir=str(p.dir.path.relative_to(root)),
            )
            for p in stages
        ),
    ).write(root)  # fmt: skip
    for planned in stages:
        refuse_links_in(planned.dir.path)
        make_dir(planned.dir.path)
        place, text = planned.dir.run_dir.spec_path, seal_text(planned.spec.to_yaml())
        # The id says that it is the same work; where its inputs lie may have changed since.
        if not place.exists() or place.read_bytes() != text.encode():
            write_text(place, text)


def read_spec(stage_dir: StageDir) -> StageSpec:
    """What decides a stage, checked against its seal and the directory's name.

    Raises:
        ConfigError: spec.yaml is missing, was changed, or is no stage's.
        RunError: It is that of another stage.
    """
    place = stage_dir.run_dir.spec_path
    spec = StageSpec.parse(parse_yaml(read_sealed_yaml(place), str(place)))
    names = [f"{spec.stage.name}-{its_id}" for its_id in (spec.id, spec.first_id)]
    if stage_dir.path.name not in names:
        raise RunError(
            f"spec.yaml describes stage {names[0]}, not {stage_dir.path.name}",
            where=str(place),
            fix="leave stage directories under the names that they were given; run the command "
            "that made the stage again, and it writes the file anew",
        )
    return spec


def check_inputs(spec: StageSpec) -> None:
    """Refuse to begin a stage whose inputs are not those that it names, or were altered.

    Raises:
        DataError, RunError: An input is missing, damaged, or another one.
    """
    for name, source in spec.given.items():
        path = Path(source.path)
        if name == BASE or name not in spec.stage.needs():
            _refuse_other(spec, name, source, contents(path))
            continue
        earlier = StageDir(RunDir(path))
        result = earlier.result()
        if result is None or result.status != "finished":
            raise RunError(
                f"the stage {name!r} has no finished result",
                where=f"{path}, which stage {spec.stage.name} needs",
                fix="run the same command again: it does that stage first",
            )
        _refuse_other(spec, name, source, result.id)
        earlier.check_outputs()


def _refuse_other(spec: StageSpec, name: str, source: Source, there: str) -> None:
    if there != source.id:
        raise RunError(
            f"the input {name!r} of stage {spec.stage.name} has changed: it is {there}, and "
            f"the stage was planned for {source.id}",
            where=source.path,
            fix="restore the input from a copy, or run the same command again: it plans the stage "
            "for the input that is there",
        )


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
            return RunDir.of(launched.spec, root, launched.name).path
        if any((place / name).exists() for name in ("spec.yaml", "model.json", "config.json")):
            return place
    raise ConfigError(
        f"there is no model {said!r}",
        where="base",
        fix="name a plan that was launched (plans/NAME), a finished run's directory, or a "
        "checkpoint's",
    )
