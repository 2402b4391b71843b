"""A stage that averages the weights of two models of one architecture.

    W = share x W_first + (1 - share) x W_second

Source: Wortsman et al. 2022, arXiv:2203.05482.
"""

from pathlib import Path
from typing import ClassVar, Literal

from torch import Tensor

from scalelab.config import Fraction
from scalelab.errors import DataError
from scalelab.evals.inputs import MODEL, Input
from scalelab.posttrain.base import Finished, Given, Stage, StageResult, Step, Work
from scalelab.posttrain.display import Display, Line, Plot, Table, headline
from scalelab.posttrain.networks import merged, write_model


class Average(Stage):
    """Average two models."""

    kind: Literal["average"] = "average"
    leaves: ClassVar[str] = MODEL
    first: str
    """The stage of one model."""
    second: str
    """The stage of the other one."""
    share: Fraction = 0.5
    """Of the first model."""

    def inputs(self) -> tuple[Input, ...]:
        """The two models."""
        return (Input(self.first, MODEL), Input(self.second, MODEL))

    def baseline(self) -> str:
        """The first model."""
        return self.first

    def display(self, result: StageResult) -> Display:
        """How far apart the two are, weight by weight."""
        rows = result.tables["distance"]
        shares = [row["distance"] for row in rows]
        line = Line("distance", list(range(len(rows))), shares)
        return Display(
            headline=headline(result, "distance"),
            tables=[Table("distance between the two models", rows)],
            plots=[Plot("distance", "Distance by tensor", "tensor", "share of its norm", [line])],
        )

    def work(self, given: Given) -> Work:
        """See Stage."""
        return Averaging(self, given)


class Averaging:
    """The average being made, in one step."""

    n_steps, eval_every, updates_within = 1, None, 1

    def __init__(self, stage: Average, given: Given):
        self.first, self.second = given.assistant(stage.first), given.assistant(stage.second)
        if self.first.config != self.second.config:
            raise DataError(
                f"{stage.first!r} and {stage.second!r} have different architectures",
                where=f"stage {stage.name}",
                fix="average models that began as the same one",
            )
        self.share = stage.share
        self.weights: dict[str, Tensor] = {}
        self.distance: list[dict[str, str | float]] = []

    def step(self, k: int) -> Step:
        """Average every tensor."""
        others = merged(self.second.network)
        for name, one in merged(self.first.network).items():
            gap = float((one - others[name]).norm() / one.norm())
            self.distance.append({"tensor": name, "distance": gap})
            self.weights[name] = self.share * one + (1 - self.share) * others[name]
        return Step()

    def evaluate(self) -> Step:
        """Nothing on the way."""
        return Step()

    def tensors(self) -> dict[str, Tensor]:
        """Nothing: the step is made again."""
        return {}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Make the step again."""
        self.step(0)

    def finish(self, out: Path) -> Finished:
        """Write the model."""
        mean = sum(row["distance"] for row in self.distance) / len(self.distance)
        return Finished(
            metrics={"distance": mean},
            files=write_model(out, self.first, self.weights),
            tables={"distance": self.distance},
        )
