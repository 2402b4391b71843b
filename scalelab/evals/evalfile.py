"""What `scalelab eval` is asked for: which models, and what is measured of each.

    name: compared
    models: {base: isoflop-6.4e12, sft: assistant/sft, ppo: assistant/ppo}
    perplexity: [{name: python, corpus: validation}]
    tasks: [{kind: choice, name: facts, rows: facts.jsonl, modes: [full, letter]}]
    pairwise: {baseline: sft, data: skills, judge: gold}
    contamination: [{name: facts, rows: facts.jsonl, field: question}]
    prediction: [{sweep: isoflop, task: facts, flops: 6.4e12}]

Below `models` every field is one of a measurement (MEASUREMENTS), those of other packages among
them; all may be left out. Not here: the measurements, each in its own file (measurements/).
"""

import hashlib
from collections.abc import Sequence
from functools import cache
from typing import Any, Self

from pydantic import Field, create_model, model_validator

from scalelab.config import Config, Document, Name, Whole
from scalelab.errors import ConfigError
from scalelab.evals import MEASUREMENTS
from scalelab.evals.measurements.base import Measurement
from scalelab.registry import Target

OURS = "scalelab"
"""Name of our own distribution in a registry."""


class EvalFile(Config):
    """Everything that is to be measured, as a person writes it.

    What is loaded has a field `seed` too, and those of every measurement: see file_type.
    """

    name: Name
    """Of the report, and of the experiment in MLflow."""
    question: str = ""
    models: dict[Name, str] = Field(min_length=1)
    """What the report calls each model, and where it is: a plan that was launched, a run's or a
    checkpoint's directory, or NAME/STAGE of a post-training."""

    @classmethod
    def parse(cls, document: Document) -> Self:
        """The file that a document describes. Raises ConfigError naming every mistake."""
        return super(EvalFile, file_type()).parse(document)

    @property
    def sections(self) -> dict[str, Measurement]:
        """The measurements that are asked for, by name."""
        found = {}
        for name in MEASUREMENTS:
            section = MEASUREMENTS[name]
            fields = {field: getattr(self, field) for field in section.model_fields}
            if (asked := section.model_validate(fields)).is_asked():
                found[name] = asked
        return found

    @property
    def digest(self) -> str:
        """Twelve hex digits of the contents. Another package's field counts where it is used."""
        asked, left_out = self.sections, set()
        for name, target in MEASUREMENTS.targets.items():
            if target.package != OURS and name not in asked:
                left_out |= set(MEASUREMENTS[name].model_fields)
        return hashlib.sha256(self.model_dump_json(exclude=left_out).encode()).hexdigest()[:12]

    @model_validator(mode="after")
    def _sections_fit(self) -> Self:
        asked, names = self.sections, {}
        for name, section in asked.items():
            section.check(self)
            # Whatever has a score stands in the tables over everything, under its name.
            table = "scores" if any(kind.score for kind in section.kinds) else name
            names.setdefault(table, []).extend(section.names())
        for table in names.values():
            if twice := {name for name in table if table.count(name) > 1}:
                raise ValueError(f"two measurements are named {min(twice)!r}")
        if not asked:
            raise ValueError(f"nothing is to be measured: give {', '.join(MEASUREMENTS)}")
        return self


def file_type() -> type[EvalFile]:
    """The type of a whole file: EvalFile, the fields of every measurement, and the seed.

    Raises:
        ConfigError: Two measurements have a field of one name.
    """
    return _file_type(tuple(MEASUREMENTS.targets.items()))


@cache
def _file_type(targets: tuple[tuple[str, Target], ...]) -> type[EvalFile]:
    ours = [name for name, target in targets if target.package == OURS]
    theirs = [name for name, target in targets if target.package != OURS]
    # The digest hashes the fields in this order.
    fields = _fields(ours) | {"seed": (Whole, 0)}
    for name, field in _fields(theirs).items():
        if name in fields or name in EvalFile.model_fields:
            raise ConfigError(
                f"a measurement of another package has a field {name!r}, which is taken",
                where=f"the entry points {MEASUREMENTS.group!r}: {', '.join(theirs)}",
                fix="rename that field in the package, or uninstall the package",
            )
        fields[name] = field
    return create_model("EvalFile", __base__=EvalFile, **fields)


def _fields(names: Sequence[str]) -> dict[str, tuple[Any, Any]]:
    """Fields of some measurements, as create_model takes them."""
    return {
        field: (info.annotation, info)
        for name in names
        for field, info in MEASUREMENTS[name].model_fields.items()
    }
