"""Which of two recipes is better at a large scale, decided from small models.

    one scale     the order at the largest small scale that all recipes share
    two steps     the order of predicted accuracies (prediction.py), one fit a recipe

The first needs no fit and is hard to beat: in DataDecide it was right for some 80% of the pairs,
and none of eight fits did better. So both are always reported.

Source: Magnusson et al. 2025 (DataDecide), arXiv:2504.11393, abstract.
Not here: how much better (prediction.py).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from scalelab.errors import DataError
from scalelab.evals.predict.model_table import ModelTable, Rows, read_table, word
from scalelab.evals.predict.two_step import FEWEST, Form, coordinates, fit

Array = np.ndarray


@dataclass(frozen=True)
class RecipeRanking:
    """Which of two recipes is better at the largest scale, decided from smaller ones."""

    task: str
    recipes: tuple[str, ...]
    small: float
    """Parameters of the largest scale below the decision."""
    large: float
    """Parameters of the scale at which it is decided."""
    n_pairs: int
    n_tied: int
    """Pairs that are equal at the large scale; they are not counted."""
    by_accuracy: float
    """Share of pairs whose order at the small scale, by accuracy, is that at the large one."""
    by_loss: float
    """Share of pairs ordered correctly by the loss of the correct answer."""
    by_two_steps: float | None
    """Share of pairs ordered correctly by predicted accuracy; None if a recipe has too few models."""
    reason: str
    """Why there is no decision by two steps; empty where there is one."""

    @property
    def text(self) -> str:
        """The shares as text."""
        steps = (
            f"two-step prediction {100 * self.by_two_steps:.0f}% extrapolated"
            if self.by_two_steps is not None
            else f"no two-step prediction: {self.reason}"
        )
        return (
            f"{self.task}: {self.n_pairs} decisions among {len(self.recipes)} recipes at "
            f"{self.large:.3g} parameters, right from one scale of {self.small:.3g}: by accuracy "
            f"{100 * self.by_accuracy:.0f}%, by loss {100 * self.by_loss:.0f}% measured; {steps}"
            + (f" ({self.n_tied} pairs tied and left out)" if self.n_tied else "")
        )


def rank_recipes(rows: Rows, task: str, *, chance: float, form: Form = "compute") -> RecipeRanking:
    """Return how often one small scale, and the two-step prediction, identify the better recipe.

    Models of one recipe and scale (seeds) are averaged. A tie at the small scale is half right.

    Args:
        rows: As read_table, with `recipe`.
        task: Which task.
        chance: Accuracy of a guess.
        form: Form of step 1.

    Raises:
        DataError: Fewer than two recipes, no two scales that all have, or every pair tied.
    """
    table = read_table(rows, task)
    names = np.array([word(i, row, "recipe") for i, row in enumerate(rows) if row["task"] == task])
    recipes = tuple(sorted(set(names.tolist())))
    if len(recipes) < 2:
        raise DataError(
            f"{len(recipes)} recipe: nothing to choose between",
            where=f"task {task}",
            fix="add the models of a second recipe, named in the column `recipe`",
        )
    shared = sorted(set.intersection(*[set(table.n_params[names == r].tolist()) for r in recipes]))
    if len(shared) < 2:
        raise DataError(
            f"the recipes share {len(shared)} scale(s), and two are needed",
            where=f"task {task}, n_params",
            fix="train every recipe at one small and one large scale, of equal n_params",
        )
    small, large = shared[-2:]

    def means(scale: float, column: str) -> Array:
        is_there = table.n_params == scale
        return np.array([getattr(table, column)[is_there & (names == r)].mean() for r in recipes])

    truth = means(large, "accuracy")
    pairs = [(i, j) for i, j in combinations(range(len(recipes)), 2) if truth[i] != truth[j]]
    n_tied = math.comb(len(recipes), 2) - len(pairs)
    if not pairs:
        raise DataError(
            "all recipes score alike at the largest scale",
            where=f"task {task}, n_params {large:g}",
            fix="decide by a task on which they differ",
        )

    def right(score: Array) -> float:
        signs = [np.sign(score[i] - score[j]) * np.sign(truth[i] - truth[j]) for i, j in pairs]
        return float(np.mean([(sign + 1) / 2 for sign in signs]))

    predicted, reason = _by_two_steps(table, names, recipes, large, chance, form)
    return RecipeRanking(
        task=task,
        recipes=recipes,
        small=small,
        large=large,
        n_pairs=len(pairs),
        n_tied=n_tied,
        by_accuracy=right(means(small, "accuracy")),
        by_loss=right(-means(small, "task_loss")),
        by_two_steps=None if predicted is None else right(predicted),
        reason=reason,
    )


def _by_two_steps(
    table: ModelTable, names: Array, recipes: Sequence[str], large: float, chance: float, form: Form
) -> tuple[Array | None, str]:
    """Accuracy of each recipe at the large scale, from its own smaller models."""
    found = []
    for recipe in recipes:
        mine = table.take(names == recipe)
        below, there = mine.take(mine.n_params < large), mine.take(mine.n_params == large)
        n_levels = len(np.unique(below.flops))
        if len(below) < FEWEST[form] or n_levels < FEWEST[form] - 1:
            return None, (
                f"{recipe} has {len(below)} smaller models at {n_levels} amounts of compute, "
                f"and {FEWEST[form]} at {FEWEST[form] - 1} are needed"
            )
        x = coordinates(form, there.flops, there.n_params, there.n_tokens)
        found.append(fit(below, form, chance).accuracy(x)[0].mean())
    return np.array(found), ""
