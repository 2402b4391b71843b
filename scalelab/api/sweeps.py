"""Sweeps and simulated runs from Python.

file = scalelab.load_sweep("sweeps/isoflop.yaml", ["recipe.seq_len=128"])
planned = scalelab.plan_sweep(file)     # every run, at once; planned.timed() adds the seconds
trained = scalelab.run_sweep(file)
runs = scalelab.simulate("chinchilla", noise=0.003)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scalelab.files import runs_directory
from scalelab.launch.sweep import SweepPlan, SweepResult, time_plan
from scalelab.launch.sweep import plan_sweep as planned
from scalelab.launch.sweep import run_sweep as trained
from scalelab.launch.sweep_timing import LIMIT_S
from scalelab.report.document import Document
from scalelab.report.render.html import render_html
from scalelab.report.render.terminal import render_terminal
from scalelab.report.sweep.document import plan_document, result_document
from scalelab.sweep.file import SweepFile

if TYPE_CHECKING:
    import pandas as pd


def load_sweep(path: str | Path, overrides: Sequence[str] = ()) -> SweepFile:
    """Return a sweep file, checked.

    Args:
        path: The YAML file.
        overrides: Values that replace those of the file, such as "recipe.seq_len=256".

    Raises:
        ConfigError: The file, or an override, has a value that cannot be used.
    """
    return SweepFile.load(Path(path), list(overrides))


def plan_sweep(file: SweepFile | str | Path) -> "PlannedSweep":
    """Return every run of a sweep with its size, tokens, FLOPs and state. Nothing is trained or timed.

    Args:
        file: A sweep file of load_sweep, or its path.

    Raises:
        ConfigError: A run cannot be built.
        DataError: The corpus is too small for a run.
    """
    file = file if isinstance(file, SweepFile) else load_sweep(file)
    return PlannedSweep(planned(file, runs_directory()))


@dataclass(frozen=True, eq=False)
class PlannedSweep:
    """Every run of a sweep before it starts."""

    plan: SweepPlan
    """The plan in full."""

    def timed(self, limit_s: float = LIMIT_S) -> "PlannedSweep":
        """Return the plan with the seconds of each run, from steps of some of its models that are timed now.

        Args:
            limit_s: Time limit of the steps, seconds. Models that would take longer are not timed.

        Raises:
            LaunchError: The executor cannot start.
        """
        return PlannedSweep(time_plan(self.plan, limit_s))

    def to_frame(self) -> "pd.DataFrame":
        """Return one row a run; seconds_estimated is missing where it is not timed."""
        import pandas as pd

        return pd.DataFrame(self.plan.to_json()["runs"]).set_index("run")

    def to_document(self) -> Document:
        """Return what the command line would show, as a Document."""
        return plan_document(self.plan)

    def __str__(self) -> str:
        return render_terminal(self.to_document())

    def _repr_html_(self) -> str:
        return render_html(self.to_document())


def run_sweep(file: SweepFile | str | Path) -> "TrainedSweep":
    """Train every run of a sweep that is not trained yet, below runs/, and return what came of all.

    Args:
        file: A sweep file of load_sweep, or its path.

    Raises:
        DataError: The corpus is too small for a run.
        LaunchError: Another process runs this sweep, or an executor cannot start.
    """
    file = file if isinstance(file, SweepFile) else load_sweep(file)
    return TrainedSweep(trained(file, runs_directory()))


@dataclass(frozen=True, eq=False)
class TrainedSweep:
    """The runs of a sweep after its jobs have ended."""

    result: SweepResult
    """Every run with its result, in full."""

    def to_frame(self) -> "pd.DataFrame":
        """Return the run table, one row a run."""
        from scalelab.records.run_table import run_table

        return run_table(runs_directory(), self.result.file.name)

    def to_document(self) -> Document:
        """Return what the command line would show, as a Document."""
        return result_document(self.result)

    def __str__(self) -> str:
        return render_terminal(self.to_document())

    def _repr_html_(self) -> str:
        return render_html(self.to_document())


def simulate(
    law: str = "chinchilla",
    *,
    constants: Mapping[str, float] | None = None,
    noise: float = 0.003,
    seeds: int = 1,
    epochs: float = 1.0,
    batch_tokens: float | None = None,
    seed: int = 0,
) -> "pd.DataFrame":
    """Return a table of simulated isoFLOP runs whose law is known, for tests and demonstrations.

    Args:
        law: Law that the losses follow.
        constants: Its constants; None: the published ones.
        noise: Standard deviation of the noise, as a share of the loss.
        seeds: Runs of each size and budget.
        epochs: Times that each token is seen.
        batch_tokens: Tokens per optimizer step, for laws of steps; None: unknown.
        seed: Seed of the noise.
    """
    import pandas as pd

    from scalelab.study.simulate.designs import GaussianNoise, SimulatedIsoFlop
    from scalelab.study.simulate.simulation import KnownLaw, table_columns
    from scalelab.study.simulate.simulation import simulate as drawn

    known = KnownLaw.of(law, dict(constants or {}), epochs=epochs, batch_tokens=batch_tokens)
    noises = (GaussianNoise(noise),) if noise else ()
    runs = drawn(known, design=SimulatedIsoFlop(seeds=seeds), noise=noises, seed=seed)
    return pd.DataFrame(table_columns(runs, known))
