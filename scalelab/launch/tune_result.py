"""What a tuning found: its trials, the best values of each cell, the rules, and the sweep file with them.

Not here: how trials are trained (launch/tune.py), the estimates (laws/tuned_settings.py), texts (report/tune/).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalelab.errors import FitError
from scalelab.jobs.base import LOST, JobOutcome
from scalelab.jobs.driver import JobOutcomes
from scalelab.laws.tuned_settings import SettingRule, SettingsOptimum
from scalelab.sweep.file import SweepFile
from scalelab.sweep.tune_file import BATCH, TuneFile, TuningCell


@dataclass(frozen=True)
class TrialRow:
    """One trial or rerun after its job has ended. Measured."""

    run: str
    seed: int
    batch_tokens: int
    """Tokens of a step."""
    values: dict[str, float]
    """By field, as trained: the batch is that of the run."""
    status: str
    """finished, diverged, failed, or no result."""
    loss: float | None
    """Validation loss, nats per token."""


@dataclass(frozen=True, eq=False)
class TunedCell:
    """A cell with its trials and its best values."""

    cell: TuningCell
    trials: Sequence[TrialRow]
    reruns: Sequence[TrialRow]
    """Further seeds of the best observed values, where there is no optimum."""
    optimum: SettingsOptimum | str
    """Best values by the surface; or in words why there are none."""

    @property
    def best(self) -> TrialRow | None:
        """Trial of the lowest loss; None if none finished. It is the luckiest too."""
        return min((t for t in self.trials if t.loss is not None), key=lambda t: t.loss, default=None)

    def rerun_loss(self) -> tuple[float, float] | None:
        """Mean loss of the reruns and its standard error, nats per token; None for fewer than two."""
        losses = [t.loss for t in self.reruns if t.loss is not None]
        if len(losses) < 2:
            return None
        return float(np.mean(losses)), float(np.std(losses, ddof=1) / math.sqrt(len(losses)))


@dataclass(frozen=True, eq=False)
class TuneResult:
    """A tuning after its jobs have ended."""

    file: TuneFile
    cells: Sequence[TunedCell]
    rules: dict[str, SettingRule | str]
    """By field: the rule through the cells, or in words why there is none."""
    outcomes: JobOutcomes
    behind: str | None
    """Message of the MLflow mirror if it has not caught up."""

    @property
    def interrupted(self) -> bool:
        """Whether the tuning was stopped on request."""
        return self.outcomes.interrupted

    @property
    def lost(self) -> list[JobOutcome]:
        """Jobs that ended without a result."""
        return self.outcomes.of(*LOST)

    def written_rules(self) -> dict[str, Any]:
        """Return the rules of the tuned recipe by field, as mappings with the ranges that they were fitted on."""
        return {
            name: _written(rule) | {"fitted_on": self._fitted_on(name)}
            for name, rule in self.rules.items()
            if isinstance(rule, SettingRule)
        }

    def _fitted_on(self, field: str) -> dict[str, list[float]]:
        """Least and largest N, D and batch of the cells with an optimum; no batch for a rule of the batch."""
        tuned = [c for c in self.cells if isinstance(c.optimum, SettingsOptimum)]
        values = {
            "n_params": [c.cell.n_params for c in tuned],
            "n_tokens": [c.cell.n_tokens for c in tuned],
            "batch_tokens": [t.batch_tokens for c in tuned for t in c.trials if t.loss is not None],
        }
        if field == BATCH:
            del values["batch_tokens"]
        return {name: [float(min(found)), float(max(found))] for name, found in values.items()}

    def sweep_file(self) -> SweepFile:
        """Return the sweep file that was extended, with the rules in place of its numbers.

        Raises:
            FitError: No field has a rule.
        """
        rules = self.written_rules()
        if not rules:
            raise FitError(
                f"the tuning {self.file.name} has no rule: "
                + "; ".join(f"{name}: {why}" for name, why in self.rules.items()),
                where="; ".join(
                    f"{c.cell.words()}: {c.optimum}" for c in self.cells if isinstance(c.optimum, str)
                ),
                fix="widen low and high of the fields, or raise trials, and run the same command again",
            )
        base = self.file.extends
        data = base.model_dump() | {
            "recipe": self.file.recipe_with(rules).model_dump(),
            "name": f"{base.name[:58]}-tuned",
        }
        return SweepFile.model_validate(data)


def _written(rule: SettingRule) -> dict[str, Any]:
    """A rule as a recipe holds it, its constants to six digits."""
    first, a, b = (float(c) for c in rule.constants)
    value = float(f"{math.exp(first) if rule.is_log else first:.6g}")
    if not rule.is_power:
        return {"kind": "constant", "value": value}
    exponents = {"n_params": float(f"{a:.6g}"), "n_tokens": float(f"{b:.6g}")}
    return {"kind": "power", "coefficient": value, **exponents}


def header_of(result: TuneResult) -> str:
    """Return the comment lines at the start of a tuned recipe: where its rules come from, and where they hold."""
    n_cells = sum(isinstance(c.optimum, SettingsOptimum) for c in result.cells)
    return (
        f"# {', '.join(result.written_rules())} fitted by the tuning {result.file.name} to {n_cells} cells.\n"
        "# Outside of fitted_on it is extrapolated, and plans say so. It holds for the other numbers of this recipe:\n"
        "# with another batch, schedule or optimizer, tune again.\n"
    )
