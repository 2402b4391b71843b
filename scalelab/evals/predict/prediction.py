"""Prediction of a larger model's score on a task through its task loss, with a reliability check.

    compute, or size and tokens  ->  loss of the right answer  ->  accuracy        (two_step.py)

Small models are at chance long before a task is hopeless: the loss of the right answer falls
while accuracy stands still. So accuracy is predicted from the loss, never from compute at once.

A task counts as predictable only if all criteria hold:

    the fits converged, and their starts agree
    accuracy rises as loss falls            Spearman's rank correlation
    the largest models are above chance     by several standard errors
    the two curves explain the models       share of the variance of accuracy left over
    held-out larger models were predicted   mean error in points (hundredths of accuracy)

The baseline is the last observed accuracy, carried forward.

Intervals: 95%, percentiles over models drawn again, both steps fitted anew. They hold what models
of one family differ by; that a curve might bend beyond the evidence is in no interval.
Source: Grattafiori et al. 2024, section 3.2.1, arXiv:2407.21783; Bhagia et al. 2024 (ladder),
arXiv:2412.04403. The thresholds are ours.
Not here: the curves (two_step.py), which of two recipes is better (recipes.py), how a task is
scored (scores.py).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.stats import spearmanr

from scalelab.errors import ConfigError, DataError, FitError
from scalelab.evals.predict.model_table import ModelTable, Rows, carried_forward, read_table, word
from scalelab.evals.predict.two_step import FEWEST, Form, TwoStepFit, coordinates, fit, refit

Array = np.ndarray


@dataclass(frozen=True)
class PredictabilityCriteria:
    """When a task counts as predictable."""

    points: float = 5.0
    """Largest mean error on held-out models, hundredths of accuracy."""
    unexplained: float = 0.3
    """Largest share of the variance of accuracy that the two steps leave over."""
    signal: float = 4.0
    """How many standard errors the largest models must stand above chance."""
    order: float = 0.7
    """Least rank correlation between falling loss and rising accuracy."""


@dataclass(frozen=True)
class PredictionTarget:
    """The model to predict."""

    flops: float
    n_params: float | None = None
    """Needed by form size."""
    n_tokens: float | None = None
    """Needed by form size."""


@dataclass(frozen=True)
class HeldOutModel:
    """A model that was predicted from smaller ones. Status: predicted is extrapolated."""

    n_trained: int
    trained_to: float
    """Most FLOPs among the models that were fitted."""
    flops: float
    predicted: float
    observed: float
    carried: float
    """Accuracy of the largest models that were fitted, carried forward."""

    @property
    def reach(self) -> float:
        """FLOPs of the held-out model per FLOPs of the largest that was fitted."""
        return self.flops / self.trained_to

    @property
    def error(self) -> float:
        """Predicted minus observed, points."""
        return 100 * (self.predicted - self.observed)

    @property
    def carried_error(self) -> float:
        """Error of the accuracy carried forward, points."""
        return 100 * (self.carried - self.observed)


@dataclass(frozen=True, eq=False)
class TaskPrediction:
    """One task at one target."""

    task: str
    chance: float
    target: PredictionTarget
    chain: TwoStepFit
    table: ModelTable
    loss: float
    """Predicted at the target, in the unit of the table."""
    loss_interval: tuple[float, float]
    accuracy: float
    """Predicted at the target."""
    accuracy_interval: tuple[float, float]
    replicates: int
    failed: int
    """Replicates that drew too few different models; they are left out of the intervals."""
    held_out: tuple[HeldOutModel, ...]
    """Largest last."""
    unexplained: float
    """Share of the variance of accuracy that both steps leave over; nan where it has none."""
    carried: float
    """Accuracy of the largest models, carried forward."""
    reasons: tuple[str, ...]
    """Criteria that fail; empty if the task is predictable."""

    @property
    def is_predictable(self) -> bool:
        """Whether all criteria hold."""
        return not self.reasons

    @property
    def status(self) -> Literal["fitted", "extrapolated"]:
        """Whether the target lies within the models that were fitted."""
        t = self.table
        pairs = ((self.target.flops, t.flops),)
        if self.chain.form == "size":
            pairs = ((self.target.n_params, t.n_params), (self.target.n_tokens, t.n_tokens))
        inside = all(seen.min() <= asked <= seen.max() for asked, seen in pairs)
        return "fitted" if inside else "extrapolated"

    @property
    def reach(self) -> float:
        """FLOPs of the target per FLOPs of the largest model."""
        return self.target.flops / float(self.table.flops.max())

    @property
    def mean_error(self) -> float | None:
        """Mean absolute error on held-out models, points; None if none was held out."""
        return _mean_size([h.error for h in self.held_out])

    @property
    def carried_error(self) -> float | None:
        """Error of the accuracy carried forward, points."""
        return _mean_size([h.carried_error for h in self.held_out])

    @property
    def text(self) -> str:
        """The prediction and its baseline as text."""
        s1, s2 = self.chain.solver1, self.chain.solver2
        low, high = self.accuracy_interval
        loss_low, loss_high = self.loss_interval
        verdict = "predictable" if self.is_predictable else "not predictable"
        held = "no larger model could be held out"
        if self.held_out:
            furthest = max(h.reach for h in self.held_out)
            held = (
                f"held out {len(self.held_out)} larger models up to {furthest:.3g}x: mean error "
                f"{self.mean_error:.1f} points, carried forward {self.carried_error:.1f}"
            )
        lines = [
            f"{self.task}: {verdict}",
            f"  accuracy {self.accuracy:.3f} [{low:.3f}, {high:.3f}] {self.status}, loss "
            f"{self.loss:.3f} [{loss_low:.3f}, {loss_high:.3f}], at {self.target.flops:.3g} FLOPs, "
            f"{self.reach:.3g}x the largest of {len(self.table)} models; chance {self.chance:.3f}",
            f"  last observed accuracy carried forward: {self.carried:.3f} measured",
            f"  {held}",
            f"  unexplained {100 * self.unexplained:.0f}% of the variance; starts that agree: "
            f"loss {100 * s1.agreement:.0f}%, accuracy {100 * s2.agreement:.0f}%; intervals from "
            f"{self.replicates - self.failed} of {self.replicates} replicates",
        ]
        return "\n".join([*lines, *[f"  because {reason}" for reason in self.reasons]])


def predict(
    rows: Rows,
    task: str,
    target: PredictionTarget,
    *,
    chance: float,
    form: Form = "compute",
    criteria: PredictabilityCriteria | None = None,
    replicates: int = 400,
    seed: int = 0,
) -> TaskPrediction:
    """Predict one task at the target, with intervals, hold-out, baseline and verdict.

    Args:
        rows: As modeltable.read_table; of one recipe.
        task: Which task.
        target: The model to predict.
        chance: Accuracy of a guess: 0.25 with four choices, 0 where the model writes.
        form: Step 1 in compute, or in parameters and tokens.
        criteria: When a task counts as predictable; None takes the defaults.
        replicates: Times that the models are drawn again.
        seed: Decides which are drawn.

    Raises:
        ConfigError: The target lacks what the form needs, or chance is no share.
        DataError: As read_table; the rows are of several recipes.
        FitError: Too few models, or too little compute between them.
    """
    criteria = criteria or PredictabilityCriteria()
    table = read_table(rows, task)
    _refuse_mixture(rows, task)
    x = _refuse_impossible(table, task, target, chance, form)
    chain = fit(table, form, chance)
    n = len(table)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), replicates)
    is_enough = np.sum(counts > 0, axis=1) >= FEWEST[form] - 1
    drawn = refit(chain, counts[is_enough].astype(float))
    held_out = hold_out(table, form, chance)
    at_models = coordinates(form, table.flops, table.n_params, table.n_tokens)
    left = table.accuracy - chain.accuracy(at_models)[0]
    moves = bool(np.ptp(table.accuracy) > 0)
    unexplained = float(np.mean(left**2) / np.var(table.accuracy)) if moves else float("nan")
    return TaskPrediction(
        task=task,
        chance=chance,
        target=target,
        chain=chain,
        table=table,
        loss=float(chain.loss(x)[0, 0]),
        loss_interval=_interval(drawn.loss(x)[:, 0]),
        accuracy=float(chain.accuracy(x)[0, 0]),
        accuracy_interval=_interval(drawn.accuracy(x)[:, 0]),
        replicates=replicates,
        failed=int(np.sum(~is_enough)),
        held_out=held_out,
        unexplained=unexplained,
        carried=carried_forward(table),
        reasons=tuple(_against(table, chain, chance, held_out, unexplained, left, criteria)),
    )


def predict_all(
    rows: Rows, target: PredictionTarget, *, chance: Mapping[str, float], **settings: Any
) -> list[TaskPrediction]:
    """Every task of the table, in its order; arguments as for `predict`.

    Raises:
        ConfigError: `chance` leaves a task out, and as `predict`.
    """
    tasks = list(dict.fromkeys(word(i, row, "task") for i, row in enumerate(rows)))
    if missing := [task for task in tasks if task not in chance]:
        raise ConfigError(
            f"the chance level of {', '.join(missing)} is missing",
            where="chance",
            fix="give a share for every task: 1 / choices, 0 where the model writes",
        )
    return [predict(rows, task, target, chance=chance[task], **settings) for task in tasks]


def hold_out(table: ModelTable, form: Form, chance: float) -> tuple[HeldOutModel, ...]:
    """Return predictions of each compute level from the smaller models, if there are enough."""
    levels = np.unique(table.flops)
    found = []
    for level in levels[1:]:
        below, there = table.take(table.flops < level), table.take(table.flops == level)
        if len(below) < FEWEST[form] or len(np.unique(below.flops)) < FEWEST[form] - 1:
            continue
        chain = fit(below, form, chance)
        x = coordinates(form, there.flops, there.n_params, there.n_tokens)
        for predicted, observed in zip(chain.accuracy(x)[0], there.accuracy, strict=True):
            found.append(
                HeldOutModel(
                    n_trained=len(below),
                    trained_to=float(below.flops.max()),
                    flops=float(level),
                    predicted=float(predicted),
                    observed=float(observed),
                    carried=carried_forward(below),
                )
            )
    return tuple(found)


def _against(
    table: ModelTable,
    chain: TwoStepFit,
    chance: float,
    held_out: Sequence[HeldOutModel],
    unexplained: float,
    left: Array,
    criteria: PredictabilityCriteria,
) -> list[str]:
    """Return the criteria that a prediction fails, as sentences."""
    found = []
    for solver, what in ((chain.solver1, "loss"), (chain.solver2, "accuracy")):
        if not solver.converged:
            found.append(
                f"the search for the curve of the {what} did not converge "
                f"({100 * solver.agreement:.0f}% of its starts agree)"
            )
    order = _order(table)
    if not order >= criteria.order:
        found.append(
            f"accuracy does not follow the loss: rank correlation {order:.2f}, asked for {criteria.order}"
        )
    largest = table.take(table.flops == table.flops.max())
    known = largest.noise[np.isfinite(largest.noise)]
    noise = float(np.sqrt(np.mean(known**2)) if known.size else np.sqrt(np.mean(left**2)))
    noise /= math.sqrt(len(largest))
    above = float(largest.accuracy.mean()) - chance
    if above < criteria.signal * noise:
        found.append(
            f"the largest models are {100 * above:.1f} points above chance, which is less than "
            f"{criteria.signal:g} standard errors of {100 * noise:.1f} points: a rise that is yet "
            "to come cannot be seen from here"
        )
    if unexplained > criteria.unexplained:
        found.append(
            f"the two steps leave {100 * unexplained:.0f}% of the variance of accuracy over, more "
            f"than {100 * criteria.unexplained:.0f}%"
        )
    error = _mean_size([h.error for h in held_out])
    if error is None:
        found.append("no larger model could be held out, so the prediction error is unknown")
    elif error > criteria.points:
        found.append(
            f"the mean error on held-out models is {error:.1f} points, more than {criteria.points:g}"
        )
    return found


def _order(table: ModelTable) -> float:
    """Rank correlation of falling loss with rising accuracy; nan where one does not move."""
    if np.ptp(table.task_loss) == 0 or np.ptp(table.accuracy) == 0:
        return float("nan")
    return -float(spearmanr(table.task_loss, table.accuracy).statistic)


def _interval(values: Array) -> tuple[float, float]:
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def _mean_size(values: Sequence[float]) -> float | None:
    return float(np.mean(np.abs(values))) if values else None


def _refuse_mixture(rows: Rows, task: str) -> None:
    recipes = {str(row["recipe"]) for row in rows if row["task"] == task and row.get("recipe")}
    if len(recipes) > 1:
        raise DataError(
            f"the models are of {len(recipes)} recipes, and one curve holds for one of them",
            where=f"task {task}: {', '.join(sorted(recipes))}",
            fix="hand over the rows of one recipe; rank_recipes compares them",
        )


def _refuse_impossible(
    table: ModelTable, task: str, target: PredictionTarget, chance: float, form: Form
) -> Array:
    """The target's coordinates, shape (m, 1), where everything is there to reach them."""
    if not 0 <= chance < 1:
        raise ConfigError(f"chance is {chance:g}", where=f"task {task}", fix="give a share from 0 to below 1")
    asked = (target.flops,) if form == "compute" else (target.n_params, target.n_tokens)
    if any(value is None or not 0 < value < math.inf for value in asked):
        names = "flops" if form == "compute" else "n_params and n_tokens"
        raise ConfigError(
            f"the target does not say its {names}",
            where=f"task {task}, form {form}",
            fix="give positive numbers, or take the other form",
        )
    if len(table) < FEWEST[form]:
        raise FitError(
            f"{len(table)} models cannot show the curve of the loss and its error",
            where=f"task {task}, form {form}",
            fix=f"measure at least {FEWEST[form]} models",
        )
    x = coordinates(form, table.flops, table.n_params, table.n_tokens)
    for name, values in zip(("flops",) if form == "compute" else ("n_params", "n_tokens"), x, strict=True):
        if np.ptp(values) < math.log(2):
            raise FitError(
                f"{name} spans only {math.exp(np.ptp(values)):.2f}x, too little to see a slope",
                where=f"task {task}, {len(table)} models",
                fix="add models of at least twice as much",
            )
        if len(np.unique(values)) < 3:
            raise FitError(
                f"{name} has {len(np.unique(values))} values, too few to see a floor",
                where=f"task {task}, {len(table)} models",
                fix="add models of a third size",
            )
    return np.log(np.array(asked, float))[:, None]
