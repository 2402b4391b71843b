"""The examples of each batch: fixed by the seed, every example once per epoch."""

import math

import numpy as np

from scalelab.data.corpus.stream import permute
from scalelab.data.hashing import key

_SALT = 0x5F7


def epoch_batches(n: int, batch: int, epochs: float, min_steps: int, seed: int) -> list[np.ndarray]:
    """Return the indices of each step's examples, shuffled anew in every epoch.

    Args:
        n: Number of examples.
        batch: Examples per step, at most n are used; only the last batch may be smaller.
        epochs: Passes over the examples.
        min_steps: Least number of steps; few examples are passed over more often to reach it.
        seed: Seed of the order.

    Returns: One array of indices, shape (batch,), per step.
    """
    batch = min(batch, n)
    wanted = max(math.ceil(n * epochs), min_steps * batch)
    places = [permute(np.arange(n), n, key(seed, _SALT, epoch)) for epoch in range(-(-wanted // n))]
    whole = np.concatenate(places)[:wanted]
    return [whole[start : start + batch] for start in range(0, wanted, batch)]
