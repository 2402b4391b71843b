"""The sweep file: a question, a recipe, a design, and how to run it.

    extends: sweeps/questions/base.yaml    a sweep file whose contents hold where this one has none

Mappings are joined key by key; one that names another `kind` replaces that of the base, and so does every list. The
path is relative to the working directory, as that of a tuning file. A sweep is recorded with the joined contents.
"""

from pathlib import Path
from typing import ClassVar, Self

from pydantic import field_validator, model_validator

from scalelab.config import Config, Flops, Name, YamlDocument, plugin
from scalelab.errors import ConfigError
from scalelab.jobs.settings import LaunchConfig
from scalelab.sweep import DESIGNS
from scalelab.sweep.base import Design
from scalelab.train.recipe import Recipe

MOST_RUNS = 10_000
"""Most runs of a sweep. Planning 10,000 takes seconds, a manifest of them a few megabytes."""
EXTENDS = "extends"
"""Key of the path of the sweep file that a sweep file extends."""
MOST_BASES = 8
"""Files that may extend one another in a row."""


class SweepFile(Config):
    """A sweep file. Its `name` names its directory, its MLflow experiment and its report."""

    file_kind: ClassVar[str | None] = "sweep"

    name: Name
    question: str
    """Question that the sweep answers, written before it runs."""
    prediction: str
    """Answer that its author expects, written before it runs."""
    recipe: Recipe
    design: plugin(DESIGNS)
    target_flops: Flops | None = None
    """Training compute that the fit is extrapolated to, FLOPs. None: ten times the largest."""
    launch: LaunchConfig = LaunchConfig()

    @classmethod
    def read_file(cls, path: Path) -> YamlDocument:
        """Return the contents of a sweep file, joined with those of the files that it extends.

        Raises:
            ConfigError: A file cannot be read, is of another kind, or extends itself.
        """
        document = super().read_file(path)
        above, seen = document, [Path(path)]
        while EXTENDS in above.data:
            base = _base_path(above)
            if len(seen) == MOST_BASES or any(base.resolve() == each.resolve() for each in seen):
                raise ConfigError(
                    f"{path} extends {' which extends '.join(map(str, [*seen[1:], base]))}",
                    where=above.place((EXTENDS,)),
                    fix=f"let at most {MOST_BASES} files extend one another, none of them itself",
                )
            seen.append(base)
            del above.data[EXTENDS]
            above = super().read_file(base)
            document.extend(above)
            document.data.pop(EXTENDS, None)
        return document

    @field_validator("design")
    @classmethod
    def _runs_can_be_planned(cls, design: Design) -> Design:
        n = design.n_runs()
        if n is not None and n > MOST_RUNS:
            raise ValueError(too_many_runs(n))
        return design

    @model_validator(mode="after")
    def _design_takes_trunks(self) -> Self:
        if self.recipe.has_trunks and not self.design.takes_trunks:
            raise ValueError(
                f"the design {self.design.kind} asks for its runs one by one, so they cannot share trunks: set "
                "recipe.schedule.trunk to false, or choose a design that asks for all at once, such as isoflop"
            )
        return self


def _base_path(document: YamlDocument) -> Path:
    """Return the path of the file that a document extends."""
    named = document.data[EXTENDS]
    if not isinstance(named, str):
        raise ConfigError(
            f"{EXTENDS} is {named!r}, no path",
            where=document.place((EXTENDS,)),
            fix="name one sweep file, by its path relative to the working directory",
        )
    if not Path(named).is_file():
        raise ConfigError(
            f"there is no file {named} in {Path.cwd()}",
            where=document.place((EXTENDS,)),
            fix="give the path of a sweep file relative to the working directory",
        )
    return Path(named)


def too_many_runs(n: int) -> str:
    """Return the refusal of so many runs."""
    return f"the design asks for {n:,} runs, more than {MOST_RUNS:,}: ask for fewer, or split the sweep"
