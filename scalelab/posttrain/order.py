"""Which examples make up which batch: fixed by the seed, every example once an epoch."""

import math

import numpy as np

from scalelab.data.hashing import key
from scalelab.data.stream import permute

_SALT = 0x5F7


def epochs_of(n: int, batch: int, epochs: float, min_steps: int, seed: int) -> list[np.ndarray]:
    """Places of the examples of each step, in shuffled order, epoch behind epoch.

    Args:
        n: Examples.
        batch: Of a step, at most n; the last one of all may be smaller, and none before it.
        epochs: Passes over them.
        min_steps: Steps at least; more passes are made where so few examples give fewer.
        seed: Decides the order.
    """
    batch = min(batch, n)
    wanted = max(math.ceil(n * epochs), min_steps * batch)
    places = [permute(np.arange(n), n, key(seed, _SALT, epoch)) for epoch in range(-(-wanted // n))]
    whole = np.concatenate(places)[:wanted]
    return [whole[start : start + batch] for start in range(0, wanted, batch)]
