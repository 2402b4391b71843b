"""Shared parts of the logistic fits: the sigmoid and a backtracking line search."""

from collections.abc import Callable

import numpy as np

Array = np.ndarray

ENOUGH = 0.2
"""Share of the gain predicted by the gradient that a step must reach; otherwise it is halved."""
CONVERGED = 1e-12
"""Newton decrement at convergence: the last step was a millionth of a standard error."""


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + exp(-x)) without overflow."""
    return (1 + np.tanh(x / 2)) / 2


def line_search(
    evaluate: Callable[[Array], tuple[Array, Array]],
    here: Array,
    height: Array,
    step: Array,
    expected_gain: Array,
) -> tuple[Array, Array, Array]:
    """Return the end of each step, halved until it gains enough: point, objective, win probabilities.

    Args:
        evaluate: Objective (r,) and win probabilities at points (r, k).
        here: Starting points, (r, k).
        height: Objective at `here`, (r,).
        step: Steps, (r, k); shortened in place.
        expected_gain: Gain of each full step predicted by the gradient, (r,); scaled with the step.
    """
    for _ in range(40):
        reached, chance = evaluate(here + step)
        # Armijo's rule: any gain is not enough, because the objective is flat far out.
        short = reached < height + ENOUGH * expected_gain - 1e-9 * np.abs(height)
        if not short.any():
            break
        step[short], expected_gain[short] = step[short] / 2, expected_gain[short] / 2
    return here + step, reached, chance
