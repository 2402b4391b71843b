"""What the logistic fits of this room share: a step that climbs, and the curve itself."""

from collections.abc import Callable

import numpy as np

Array = np.ndarray

ENOUGH = 0.2
"""Of the climb that the slope promises, or the step is halved."""
CONVERGED = 1e-12
"""Newton's decrement: the last step was a millionth of a standard error."""


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), which overflows nowhere."""
    return (1 + np.tanh(x / 2)) / 2


def climbed(
    climb: Callable[[Array], tuple[Array, Array]],
    here: Array,
    height: Array,
    step: Array,
    promised: Array,
) -> tuple[Array, Array, Array]:
    """Where steps lead, halved until they climb enough: place, height, chances there.

    Args:
        climb: Height (r,) and chances of a win at places (r, k).
        here: (r, k).
        height: Of `here`, (r,).
        step: (r, k); shortened in place.
        promised: What the slope says that each step gains, (r,); shortened with it.
    """
    for _ in range(40):
        reached, chance = climb(here + step)
        # Armijo's rule: merely to climb is not enough, far out all is flat.
        short = reached < height + ENOUGH * promised - 1e-9 * np.abs(height)
        if not short.any():
            break
        step[short], promised[short] = step[short] / 2, promised[short] / 2
    return here + step, reached, chance
