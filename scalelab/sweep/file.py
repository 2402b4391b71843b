"""The sweep file: a question, a recipe, a design, and how to run it.

    extends: sweeps/questions/base.yaml    a sweep file whose contents hold where this one has none

A sweep is recorded with the joined contents (extendable.py).
"""

from typing import ClassVar, Self

from pydantic import field_validator, model_validator

from scalelab.config import Flops, Name, plugin
from scalelab.extendable import ExtendableConfig
from scalelab.jobs.settings import LaunchConfig
from scalelab.sweep import DESIGNS
from scalelab.sweep.base import Design
from scalelab.train.recipe import Recipe

MOST_RUNS = 10_000
"""Most runs of a sweep. Planning 10,000 takes seconds, a manifest of them a few megabytes."""


class SweepFile(ExtendableConfig):
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


def too_many_runs(n: int) -> str:
    """Return the refusal of so many runs."""
    return f"the design asks for {n:,} runs, more than {MOST_RUNS:,}: ask for fewer, or split the sweep"
