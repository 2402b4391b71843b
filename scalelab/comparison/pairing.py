"""Which runs of two recipes share their luck: pairs of one seed, branches of one trunk.

Runs of both recipes with one seed, one size and one token count are trained on the same data in the same order.
They form a pair where the seed is recorded and stands once among the runs of one recipe, size and token count. A
trunk with its branches is one unit, and whatever shares a run with another unit is joined to it. To join runs that
share nothing costs degrees of freedom and makes no interval too narrow, so runs are paired wherever seed, size and
tokens agree, whether or not their data order is recorded.

Not here: how units are drawn again (redrawing.py).
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from scalelab.laws.observations import Array, Observations, alike

NEAR = 0.05  # of ln N and ln D within which two runs are of one design point: designs step by 1.2x or more


@dataclass(frozen=True, eq=False)
class SharedLuck:
    """Units of two recipes' runs."""

    unit: Array
    """Number of each run's unit, shape (n,), from 0."""
    trunk: Array
    """Number of each run's trunk, shape (n,), from 0; runs that share nothing have their own."""
    cell: Array
    """Number of each run's recipe, size and tokens, shape (n,), from 0."""
    joined_cell: Array
    """The units when runs of one cell belong together too, shape (n,)."""
    pairs: int
    """Runs of the second recipe with a partner in the baseline."""
    name: str
    """What a unit is, in words."""


def shared_luck(runs: Observations, z: Array) -> SharedLuck:
    """Return the units of the runs of two recipes.

    Args:
        runs: Runs of both.
        z: 1 for those of the second recipe, shape (n,).
    """
    label = alike(z, np.asarray(runs.group).astype(str))
    first, second = np.flatnonzero(z == 0), np.flatnonzero(z == 1)
    cell = alike(z, _rounded(runs.N), _rounded(runs.D))
    links = _partners(runs, first, second, cell)
    unit = _joined(label, links)
    trunks = len(np.unique(label)) < len(label)
    name = "trunk" if trunks else "run"
    if links:
        name = f"pair of {name}s with one seed"
    whole_cells = _joined(unit, _chain(cell))
    return SharedLuck(unit, label, cell, whole_cells, len(links), name)


def _rounded(values: Array) -> Array:
    """Values as numbers of their clusters in ln, so that sizes that a model rounds differently agree."""
    order = np.argsort(values)
    step = np.diff(np.log(values[order]), prepend=np.log(values[order[0]])) > NEAR / 5
    found = np.empty(len(values), int)
    found[order] = np.cumsum(step)
    return found


def _partners(runs: Observations, first: Array, second: Array, cell: Array) -> list[tuple[int, int]]:
    """Pairs of a baseline run and a run of the second recipe, each run once, the nearest first.

    Runs without a seed, and those of a seed that stands twice in one cell, have no partner.
    """
    seed = np.asarray(runs.seed).astype(str)
    place = alike(cell, seed)
    known = (seed != "") & (np.bincount(place)[place] == 1)
    first, second = first[known[first]], second[known[second]]
    N, D = np.log(runs.N), np.log(runs.D)
    found = []
    for i in second:
        same = first[seed[first] == seed[i]]
        apart = np.maximum(np.abs(N[same] - N[i]), np.abs(D[same] - D[i]))
        found += [(float(far), int(j), int(i)) for far, j in zip(apart, same, strict=True) if far < NEAR]
    taken: set[int] = set()
    links = []
    for _, j, i in sorted(found):
        if not taken & {i, j}:
            taken |= {i, j}
            links.append((j, i))
    return links


def _chain(label: Array) -> list[tuple[int, int]]:
    """Links that join all rows of one label."""
    order = np.argsort(label, kind="stable")
    return [(int(i), int(j)) for i, j in pairwise(order) if label[i] == label[j]]


def _joined(label: Array, links: list[tuple[int, int]]) -> Array:
    """Labels that are equal where a chain of links or equal labels joins two rows."""
    parent = list(range(int(label.max()) + 1))

    def root(k: int) -> int:
        while parent[k] != k:
            parent[k] = parent[parent[k]]
            k = parent[k]
        return k

    for i, j in links:
        parent[root(int(label[i]))] = root(int(label[j]))
    return np.unique([root(int(k)) for k in label], return_inverse=True)[1]
