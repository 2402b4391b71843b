"""One number per model from many scenarios: HELM's mean win rate, and a mean above chance.

    mean win rate      share of the other models beaten in a scenario (ties half), then its mean
    above chance       100 (score - chance) / (100% - chance), below chance 0, then its mean

Both depend on more than the model. A mean win rate changes when a model is added; both change when a
scenario is added. So every result stores and prints the exact sets. A missing score is never counted
as zero, and the scenarios that a model lacks are listed.

Source: Liang et al. 2022, arXiv:2211.09110, and `compute_aggregate_row_win_rates` in
stanford-crfm/helm; "Scores normalization" in the documentation of the Open LLM Leaderboard 2,
which for a task with subtasks takes the mean of normalised subtasks first.

Not here: intervals of scores (tasks/scores.py), pairwise matches (preference/matches.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scalelab.errors import DataError

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """Scores of models in scenarios."""

    models: tuple[str, ...]
    scenarios: tuple[str, ...]
    score: Array
    """Shape (models, scenarios); NaN if a model was not run."""
    lower_is_better: frozenset[str] = frozenset()
    """Scenarios whose score is an error, a loss or a time."""

    def __post_init__(self) -> None:
        expected = (len(self.models), len(self.scenarios))
        if np.shape(self.score) != expected:
            _refuse(
                f"scores of shape {np.shape(self.score)} for {expected[0]} model(s) and "
                f"{expected[1]} scenario(s)",
                "one row per model, one column per scenario, NaN if missing",
            )
        if not all(expected):
            _refuse(f"{expected[0]} model(s), {expected[1]} scenario(s)", "at least one of each")
        for kind, names in (("model", self.models), ("scenario", self.scenarios)):
            twice = [name for name in names if names.count(name) > 1]
            if twice:
                _refuse(f"{kind} {twice[0]!r} occurs twice", f"give every {kind} one name")
        unknown = sorted(self.lower_is_better - set(self.scenarios))
        if unknown:
            _refuse(
                f"lower_is_better names {unknown[0]!r}, which is not a scenario",
                f"use one of {', '.join(self.scenarios)}",
            )
        if np.any(np.isinf(self.score)):
            i, j = np.argwhere(np.isinf(self.score))[0]
            _refuse(
                f"{self.models[i]} scores {self.score[i, j]} in {self.scenarios[j]}",
                "give a finite score, or NaN if the model was not run",
            )
        empty = np.flatnonzero(np.all(np.isnan(self.score), axis=1))
        if empty.size:
            _refuse(f"model {self.models[empty[0]]!r} has no score", "remove the model, or run it")

    @property
    def absent(self) -> tuple[tuple[str, str], ...]:
        """Pairs of model and scenario without a score."""
        return tuple((self.models[i], self.scenarios[j]) for i, j in np.argwhere(np.isnan(self.score)))


@dataclass(frozen=True, eq=False)
class Aggregate:
    """One number per model (measured), and the sets of models and scenarios it depends on."""

    title: str
    models: tuple[str, ...]
    scenarios: tuple[str, ...]
    """Scenarios that were used."""
    value: Array
    """Shape (models,); NaN for a model without any of the scenarios used."""
    by_scenario: Array
    """Scores that `value` averages, (models, scenarios); NaN if missing."""
    absent: tuple[tuple[str, str], ...]
    """Pairs of model and scenario without a score."""
    left_out: tuple[str, ...]
    """Scenarios with scores of fewer than two models, which allow no comparison."""
    floored: tuple[tuple[str, str, float], ...]
    """Model, scenario and the value below chance (in points) that was counted as 0."""
    digits: int

    @property
    def n_scenarios(self) -> Array:
        """Scenarios used for each model, (models,)."""
        return np.sum(~np.isnan(self.by_scenario), axis=1)

    @property
    def is_complete(self) -> Array:
        """Whether a model has all scenarios, (models,); the others are means over fewer."""
        return self.n_scenarios == len(self.scenarios)

    def summary(self) -> str:
        """Return a table, best first, then the sets it depends on and all caveats."""
        wide = max(5, *map(len, self.models))
        lines = [self.title, f"{'model':<{wide}}  {'value':>7}  scenarios"]
        for i in np.argsort(-self.value, kind="stable"):  # NaN sorts last
            value = "-" if np.isnan(self.value[i]) else f"{self.value[i]:.{self.digits}f}"
            mark = "" if self.is_complete[i] else "  not comparable: scenarios are missing"
            lines.append(
                f"{self.models[i]:<{wide}}  {value:>7}  "
                f"{self.n_scenarios[i]:>3} of {len(self.scenarios)}{mark}"
            )
        lines.append(f"depends on {len(self.models)} models: {', '.join(self.models)}")
        lines.append(f"depends on {len(self.scenarios)} scenarios: {', '.join(self.scenarios)}")
        if self.absent:
            lines.append("missing: " + ", ".join(f"{m} in {s}" for m, s in self.absent))
        if self.left_out:
            lines.append("left out, fewer than two models: " + ", ".join(self.left_out))
        if self.floored:
            floored = ", ".join(f"{m} in {s} ({value:.1f})" for m, s, value in self.floored)
            lines.append(f"below chance, counted as 0: {floored}")
        return "\n".join(lines)


def mean_win_rate(table: ScoreTable) -> Aggregate:
    """Return the share of the other models that each beats, ties half, mean over scenarios; 0 to 1.

    Each scenario compares only the models with a score. Be careful with incomplete rows: a model that
    lacks a hard scenario is spared a hard comparison.

    Raises:
        DataError: No scenario has scores of two models.
    """
    lower = np.isin(table.scenarios, list(table.lower_is_better))
    score = np.where(lower, -1.0, 1.0) * table.score
    present = ~np.isnan(score)
    shared = present.sum(axis=0) >= 2
    if not shared.any():
        _refuse("no scenario has scores of two models", "evaluate a second model: a win rate compares models")
    score, present = score[:, shared], present[:, shared]
    ours, theirs = score[:, None, :], score[None, :, :]
    # Comparisons with NaN are False, so missing scores neither win nor lose.
    points = np.sum(ours > theirs, axis=1) + (np.sum(ours == theirs, axis=1) - present) / 2
    rate = np.where(present, points / (present.sum(axis=0) - 1), np.nan)
    scenarios = tuple(np.array(table.scenarios)[shared].tolist())
    return Aggregate(
        title="mean win rate over the other models, share",
        models=table.models,
        scenarios=scenarios,
        value=_mean(rate),
        by_scenario=rate,
        absent=table.absent,
        left_out=tuple(np.array(table.scenarios)[~shared].tolist()),
        floored=(),
        digits=3,
    )


def mean_above_chance(table: ScoreTable, chance: Mapping[str, float]) -> Aggregate:
    """Return scores scaled from chance (0) to perfect (100), mean over scenarios; points.

    Args:
        table: Accuracies, 0 to 1.
        chance: Accuracy of guessing in every scenario: 1 / choices, 0 for open answers.

    Raises:
        DataError: Scores are not accuracies, or a scenario has no chance level or an invalid one.
    """
    if table.lower_is_better:
        _refuse(
            f"lower is better in {', '.join(sorted(table.lower_is_better))}",
            "pass accuracies; accuracy is one minus the error rate",
        )
    outside = (table.score < 0) | (table.score > 1)
    if outside.any():
        i, j = np.argwhere(outside)[0]
        _refuse(
            f"{table.models[i]} scores {table.score[i, j]} in {table.scenarios[j]}, which is not an accuracy",
            "give shares from 0 to 1; divide percentages by 100",
        )
    odd = sorted(set(table.scenarios) ^ set(chance))
    if odd:
        _refuse(
            f"scenario {odd[0]!r} is in the scores or in the chances, not in both",
            "give the chance level of exactly these scenarios; 0 for open answers",
        )
    for name, share in chance.items():
        if not 0 <= share < 1:
            _refuse(f"chance {share} in {name}", "give a share, 0 or more and below 1")
    base = np.array([chance[name] for name in table.scenarios])
    scaled = 100 * (table.score - base) / (1 - base)
    floored = tuple(
        (table.models[i], table.scenarios[j], float(scaled[i, j])) for i, j in np.argwhere(scaled < 0)
    )
    scaled = np.where(scaled < 0, 0.0, scaled)  # NaN stays
    return Aggregate(
        title="mean score above chance, points from 0 (chance) to 100 (perfect)",
        models=table.models,
        scenarios=table.scenarios,
        value=_mean(scaled),
        by_scenario=scaled,
        absent=table.absent,
        left_out=(),
        floored=floored,
        digits=2,
    )


def _mean(value: Array) -> Array:
    """Return the mean over the scenarios that a model has; NaN if it has none."""
    n = np.sum(~np.isnan(value), axis=1)
    return np.where(n > 0, np.nansum(value, axis=1) / np.maximum(n, 1), np.nan)


def _refuse(problem: str, fix: str) -> None:
    raise DataError(problem, where="the table of scores, models by scenarios", fix=fix)
