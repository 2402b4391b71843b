"""The evaluation file: which models are evaluated, and how.

    name: compared
    models: {base: isoflop-6.4e12, sft: assistant/sft, ppo: assistant/ppo}
    perplexity: [{name: python, corpus: validation}]
    tasks: [{kind: choice, name: facts, rows: facts.jsonl, modes: [full, letter]}]
    pairwise: {baseline: sft, data: skills, judge: gold}
    contamination: [{name: facts, rows: facts.jsonl, field: question}]
    prediction: [{sweep: isoflop, task: facts, flops: 6.4e12}]

Below `models`, beside `executor`, every field belongs to a measurement (MEASUREMENTS), including those of other
packages; all are optional.

Not here: the measurements (measurement.py of each subfolder).
"""

import hashlib
from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar, Self

from pydantic import Field, create_model, model_validator

from scalelab.config import Config, Name, Seed, YamlDocument, plugin
from scalelab.errors import ConfigError
from scalelab.evals import MEASUREMENTS
from scalelab.evals.measurement import Measurement
from scalelab.jobs import EXECUTORS
from scalelab.registry import PluginTarget

OURS = "scalelab"
"""Name of this distribution in a registry."""


class EvalFile(Config):
    """An evaluation file.

    A loaded file also has the field `seed` and the fields of every measurement: see file_type.
    """

    file_kind: ClassVar[str | None] = "eval"

    name: Name
    """Name of the report and of the experiment in MLflow."""
    question: str = ""
    models: dict[Name, str] = Field(min_length=1)
    """Where each model is, by its name in the report: a launched plan, the directory of a run or a
    checkpoint, or NAME/STAGE of a post-training."""
    executor: plugin(EXECUTORS) | None = None
    """Where models are measured; it has no effect on the results. None: in this process, one after another.
    Example: {kind: slurm, workers: 4}."""

    @classmethod
    def parse(cls, document: YamlDocument) -> Self:
        """Return the file that a YAML document describes. Raises ConfigError listing every error."""
        return super(EvalFile, file_type()).parse(document)

    @property
    def sections(self) -> dict[str, Measurement]:
        """Requested measurements by name."""
        found = {}
        for name in MEASUREMENTS:
            section = MEASUREMENTS[name]
            fields = {field: getattr(self, field) for field in section.model_fields}
            if (asked := section.model_validate(fields)).is_requested():
                found[name] = asked
        return found

    @property
    def digest(self) -> str:
        """Twelve hex digits of the contents. Fields of other packages count only if they are used."""
        asked, left_out = self.sections, set()
        for name, target in MEASUREMENTS.targets.items():
            if target.package != OURS and name not in asked:
                left_out |= set(MEASUREMENTS[name].model_fields)
        return hashlib.sha256(self.model_dump_json(exclude=left_out | {"executor"}).encode()).hexdigest()[:12]

    @model_validator(mode="after")
    def _sections_fit(self) -> Self:
        asked, names = self.sections, {}
        for name, section in asked.items():
            section.check(self)
            # Rows with a score share the aggregate tables, so their names must be unique.
            table = "scores" if any(kind.score for kind in section.kinds) else name
            names.setdefault(table, []).extend(section.names())
        for table in names.values():
            if twice := {name for name in table if table.count(name) > 1}:
                raise ValueError(f"two measurements are named {min(twice)!r}")
        if not asked:
            raise ValueError(f"nothing is to be measured: give {', '.join(MEASUREMENTS)}")
        return self


def file_type() -> type[EvalFile]:
    """Return the type of a complete file: EvalFile, the fields of every measurement, and the seed.

    Raises:
        ConfigError: Two measurements have a field of the same name.
    """
    return _file_type(tuple(MEASUREMENTS.targets.items()))


@cache
def _file_type(targets: tuple[tuple[str, PluginTarget], ...]) -> type[EvalFile]:
    ours = [name for name, target in targets if target.package == OURS]
    theirs = [name for name, target in targets if target.package != OURS]
    # The digest hashes the fields in this order.
    fields = _fields(ours) | {"seed": (Seed, 0)}
    for name, field in _fields(theirs).items():
        if name in fields or name in EvalFile.model_fields:
            raise ConfigError(
                f"a measurement of another package has a field {name!r}, but that name is already used",
                where=f"the entry points {MEASUREMENTS.group!r}: {', '.join(theirs)}",
                fix="rename that field in the package, or uninstall the package",
            )
        fields[name] = field
    return create_model("EvalFile", __base__=EvalFile, **fields)


def _fields(names: Sequence[str]) -> dict[str, tuple[Any, Any]]:
    """Return the fields of measurements in the form that create_model takes."""
    return {
        field: (info.annotation, info)
        for name in names
        for field, info in MEASUREMENTS[name].model_fields.items()
    }
