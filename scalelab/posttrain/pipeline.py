"""A post-training file, the order of its stages, and their directories.

    runs/<name>/posttrain.json        the manifest (records/stage_manifest.py)
    runs/<name>/<stage>-<id>/         one stage

Stages whose inputs are finished run in parallel, each in its own process: as many as there are CPU
cores, one on a GPU. Finished stages are not repeated; stopped ones resume.

Not here: one stage (loop.py), running all of them (run.py), the report (report/posttrain/).
"""

import hashlib
import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from scalelab.config import (
    Config,
    Count,
    Name,
    Seed,
    Switch,
    Whole,
    changed,
    digest_without,
    later_fields,
    parse_yaml,
    plugin,
    short_hash,
)
from scalelab.errors import RunError
from scalelab.evals import CONVERSATIONS
from scalelab.evals.inputs import MODEL, contents
from scalelab.files import exists, make_dir, refuse_links_in, write_text
from scalelab.jobs import EXECUTORS
from scalelab.jobs.executors.local import LocalConfig
from scalelab.posttrain import STAGES
from scalelab.posttrain.base import FORMAT, StageDir
from scalelab.posttrain.stages.grade import Grade
from scalelab.records.stage_manifest import PlannedStage, StageManifest
from scalelab.sealed import seal_text
from scalelab.train.run_directory import RunDir, read_sealed_yaml

ID_SCHEMA = 2
"""Version of what a stage's id covers. Version 1 covered the whole spec with its defaults."""
BASE = "base"
"""Name of the base model among the stages."""


class GradeSettings(Config):
    """Settings of the grades of every model."""

    prompts: Count = 300
    """Number of held-out prompts per test set."""
    sampled: Switch = True
    """Grade sampled answers to the first test set in addition to greedy ones."""
    retention_tokens: Whole = 131_072
    """Tokens of the base model's validation text, to measure forgetting; 0: do not measure."""


class PosttrainFile(Config):
    """Everything that defines one post-training, as it is written in YAML."""

    file_kind: ClassVar[str | None] = "posttrain"

    name: Name
    """Name of the directory in runs/ and of the experiment in MLflow."""
    question: str = ""
    prediction: str = ""
    """Expected outcome, recorded in advance."""
    base: str
    """Directory of a plan, a run or a checkpoint, or the name of a launched plan."""
    data: plugin(CONVERSATIONS)
    """Source of conversations."""
    seed: Seed = 0
    stages: tuple[plugin(STAGES), ...] = Field(min_length=1)
    """Stages; each can use the outputs of those before it."""
    grades: GradeSettings | None = GradeSettings()
    """Settings of the grades; None: no model is graded."""
    executor: plugin(EXECUTORS) = Field(LocalConfig(), json_schema_extra={"since": 2})
    """How the processes of stages are started; it has no effect on results."""

    @property
    def digest(self) -> str:
        """Digest of the file, twelve hex digits, independent of the executor."""
        return digest_without(self, after=1)

    @model_validator(mode="after")
    def _stages_follow_one_another(self) -> Self:
        outputs: dict[str, str | None] = {BASE: MODEL}
        for stage in self.stages:
            for one in stage.inputs():
                if one.is_path:
                    continue
                if one.name not in outputs:
                    raise ValueError(
                        f"stage {stage.name!r} needs {one.name!r}, which is not an earlier stage "
                        f"(available: {', '.join(sorted(outputs))})"
                    )
                if outputs[one.name] != one.kind:
                    raise ValueError(
                        f"stage {stage.name!r} reads {one.kind} from {one.name!r}, whose output is "
                        f"{outputs[one.name] or 'nothing that other stages can read'}"
                    )
            if stage.name in outputs:
                raise ValueError(f"two stages are named {stage.name!r}")
            outputs |= {part.name: part.output_kind for part in stage.expand()}
        return self


class InputSource(Config):
    """Path and identity of an input of a stage."""

    path: str
    id: str
    """Id of the stage, or digest of the base model's weights."""


class StageSpec(Config):
    """Everything that decides the result of one stage: spec.yaml in its directory."""

    stage: plugin(STAGES)
    data: plugin(CONVERSATIONS)
    data_digest: str
    """Digest of the conversations."""
    seed: Whole
    given: dict[str, InputSource]
    format: int = FORMAT

    @property
    def id(self) -> str:
        """Id of the stage, twelve hex digits, independent of the paths of its inputs.

        It covers the settings that differ from their defaults, so a new setting with a default
        changes no id. Raise ID_SCHEMA when a default changes, because old ids then mean something
        else.
        """
        files = {name: f"content {self.given[name].id}" for name in self.stage.files()}
        return short_hash(
            {
                "schema": ID_SCHEMA,
                "format": self.format,
                "stage": _renamed(changed(self.stage), files),
                "data": self.data_digest,
                "seed": self.seed,
                "given": {name: self.given[name].id for name in self.stage.needs()},
            }
        )

    @property
    def legacy_id(self) -> str:
        """Id of the same stage before ID_SCHEMA 2."""
        fields = self.model_dump(mode="json", exclude=later_fields(self, after=1))
        fields["given"] = {name: source["id"] for name, source in fields["given"].items()}
        del fields["data"]
        fields["stage"] = _without(fields["stage"], self.stage.files())
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """Return a JSON value with some texts replaced."""
    if isinstance(value, dict):
        return {key: _renamed(inner, names) for key, inner in value.items()}
    if isinstance(value, list):
        return [_renamed(inner, names) for inner in value]
    return names.get(value, value) if isinstance(value, str) else value


def _without(value: Any, texts: Collection[str]) -> Any:
    """Return a JSON value without the keys whose values are among some texts."""
    if isinstance(value, dict):
        return {k: _without(inner, texts) for k, inner in value.items() if not _is(inner, texts)}
    return [_without(inner, texts) for inner in value] if isinstance(value, list) else value


def _is(value: Any, texts: Collection[str]) -> bool:
    return isinstance(value, str) and value in texts


@dataclass(frozen=True)
class StagePlan:
    """One stage and its directory."""

    spec: StageSpec
    dir: StageDir

    @property
    def name(self) -> str:
        """Name of the stage."""
        return self.spec.stage.name

    @property
    def id(self) -> str:
        """Id in use: its own, or the one from before ID_SCHEMA 2."""
        return self.dir.id


def plan_stages(file: PosttrainFile, base: Path, root: Path) -> list[StagePlan]:
    """Return every stage in order with its directory, series expanded and grades added.

    Raises:
        DataError: The conversations cannot be read.
        RunError: The base has no weights.
    """
    weights = base / "model.safetensors"
    if not exists(weights):
        raise RunError(
            "the base model has no weights",
            where=str(weights),
            fix="finish its run, or set base to another model",
        )
    digest = file.data.fingerprint()
    sources = {BASE: InputSource(path=str(base), id=contents(base))}
    first = dict(sources)
    found: list[StagePlan] = []
    for stage in _with_grades(file):
        files = {place: InputSource(path=place, id=contents(Path(place))) for place in stage.files()}
        common = {"stage": stage, "data": file.data, "data_digest": digest, "seed": file.seed}
        spec = StageSpec(**common, given={name: sources[name] for name in stage.needs()} | files)
        old = StageSpec(**common, given={name: first[name] for name in stage.needs()} | files)
        place, before = (
            root / file.name / f"{stage.name}-{stage_id}" for stage_id in (spec.id, old.legacy_id)
        )
        first[stage.name] = InputSource(path=str(before), id=old.legacy_id)
        if _is_started(place) or not _is_resumable(before, old.given == spec.given):
            sources[stage.name] = InputSource(path=str(place), id=spec.id)
            found.append(StagePlan(spec, StageDir(RunDir(place))))
        else:
            sources[stage.name] = first[stage.name]
            found.append(StagePlan(old, StageDir(RunDir(before))))
    return found


def _is_started(path: Path) -> bool:
    return RunDir(path).is_done or RunDir(path).is_begun


def _is_resumable(before: Path, has_its_inputs: bool) -> bool:
    """Return whether to use a stage under its legacy id: it is finished, or can be resumed."""
    return RunDir(before).is_done or (has_its_inputs and _is_started(before))


def _with_grades(file: PosttrainFile) -> list:
    stages = [part for stage in file.stages for part in stage.expand()]
    if file.grades is None:
        return stages
    names = [BASE, *(stage.name for stage in stages if stage.output_kind == MODEL)]
    settings = file.grades.model_dump()
    return [*stages, *(Grade(name=f"grade.{name}", model=name, **settings) for name in names)]


def write_manifest(
    file: PosttrainFile, stages: Sequence[StagePlan], base: Mapping[str, object], root: Path
) -> None:
    """Write the manifest and the spec of every stage before any stage runs.

    Args:
        file: The post-training file.
        stages: Its stages, as planned.
        base: What is known of the base model (describe_base).
        root: Directory of all runs.
    """
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
            PlannedStage(stage=p.name, kind=p.spec.stage.kind, id=p.id, dir=str(p.dir.path.relative_to(root)))
            for p in stages
        ),
    ).write(root)
    for planned in stages:
        refuse_links_in(planned.dir.path)
        make_dir(planned.dir.path)
        place, text = planned.dir.run_dir.spec_path, seal_text(planned.spec.to_yaml())
        # The id guarantees that it is the same stage; the paths of its inputs may have changed.
        if not exists(place) or place.read_bytes() != text.encode():
            write_text(place, text)


def read_spec(stage_dir: StageDir) -> StageSpec:
    """Return the spec of a stage, checked against its seal and the directory's name.

    Raises:
        ConfigError: spec.yaml is missing, was changed, or does not describe a stage.
        RunError: It describes another stage.
    """
    place = stage_dir.run_dir.spec_path
    spec = StageSpec.parse(parse_yaml(read_sealed_yaml(place), str(place)))
    names = [f"{spec.stage.name}-{its_id}" for its_id in (spec.id, spec.legacy_id)]
    if stage_dir.path.name not in names:
        raise RunError(
            f"spec.yaml describes stage {names[0]}, not {stage_dir.path.name}",
            where=str(place),
            fix="do not rename stage directories; run the command that started the stage again to "
            "rewrite the file",
        )
    return spec


def check_inputs(spec: StageSpec) -> None:
    """Verify that the inputs of a stage are those it was planned for, unaltered.

    Raises:
        DataError, RunError: An input is missing, damaged or different.
    """
    for name, source in spec.given.items():
        path = Path(source.path)
        if name == BASE or name not in spec.stage.needs():
            _check_identity(spec, name, source, contents(path))
            continue
        earlier = StageDir(RunDir(path))
        result = earlier.result()
        if result is None or result.status != "finished":
            raise RunError(
                f"the stage {name!r} has no finished result",
                where=f"{path}, which stage {spec.stage.name} needs",
                fix="run the same command again; it runs that stage first",
            )
        _check_identity(spec, name, source, result.id)
        earlier.check_outputs()


def _check_identity(spec: StageSpec, name: str, source: InputSource, found: str) -> None:
    if found != source.id:
        raise RunError(
            f"the input {name!r} of stage {spec.stage.name} has changed: it is {found}, but "
            f"the stage was planned for {source.id}",
            where=source.path,
            fix="restore the input from a copy, or run the same command again to plan the stage for "
            "the current input",
        )
