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
from scalelab.posttrain.base import FinishedStage, Stage, StageContext, StageJob, StageResult, StepResult
from scalelab.posttrain.display import PlotLine, StageDisplay, StagePlot, StageTable, headline
from scalelab.posttrain.networks import merged_weights, write_model


class Average(Stage):
    """Average two models."""

    kind: Literal["average"] = "average"
    output_kind: ClassVar[str] = MODEL
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

    def display(self, result: StageResult) -> StageDisplay:
        """How far apart the two are, weight by weight."""
        rows = result.tables["distance"]
        shares = [row["distance"] for row in rows]
        line = PlotLine("distance", list(range(len(rows))), shares)
        return StageDisplay(
            headline=headline(result, "distance"),
            tables=[StageTable("distance between the two models", rows)],
            plots=[StagePlot("distance", "Distance by tensor", "tensor", "share of its norm", [line])],
        )

    def create_job(self, context: StageContext) -> StageJob:
        """See Stage."""
        return Averaging(self, context)


class Averaging:
    """The average being made, in one step."""

    n_steps, eval_every, updates_within = 1, None, 1

    def __init__(self, stage: Average, context: StageContext):
        self.first, self.second = context.assistant(stage.first), context.assistant(stage.second)
        if self.first.config != self.second.config:
            raise DataError(
                f"{stage.first!r} and {stage.second!r} have different architectures",
                where=f"stage {stage.name}",
                fix="average models that began as the same one",
            )
        self.share = stage.share
        self.weights: dict[str, Tensor] = {}
        self.distance: list[dict[str, str | float]] = []

    def step(self, k: int) -> StepResult:
        """Average every tensor."""
        others = merged_weights(self.second.network)
        for name, one in merged_weights(self.first.network).items():
            gap = float((one - others[name]).norm() / one.norm())
            self.distance.append({"tensor": name, "distance": gap})
            self.weights[name] = self.share * one + (1 - self.share) * others[name]
        return StepResult()

    def evaluate(self) -> StepResult:
        """Nothing on the way."""
        return StepResult()

    def tensors(self) -> dict[str, Tensor]:
        """Nothing: the step is made again."""
        return {}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Make the step again."""
        self.step(0)

    def finish(self, out: Path) -> FinishedStage:
        """Write the model."""
        mean = sum(row["distance"] for row in self.distance) / len(self.distance)
        return FinishedStage(
            metrics={"distance": mean},
            files=write_model(out, self.first, self.weights),
            tables={"distance": self.distance},
        )
