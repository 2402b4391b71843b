"""Runs of equal size and tokens that were trained by different recipes.

    best_recipes(runs)   of every (N, D) the recipe with the lowest loss, and what it says

A law says what the best training of a size reaches. A sweep of learning rates is no repetition:
its mean is the loss of no run, and its spread is not luck. So the best recipe of each (N, D) is
fitted, with all its repeats, and the others are left out. Where each (N, D) has one recipe, as by
a rule for the learning rate, nothing happens.

Not here: cells with settings enough for a surface over learning rate and batch, whose lowest point is
taken before this (tuning.py); repeats that no column explains (replication.py); columns that a law
reads, which are for it to explain (laws/columns.py); other text or another tokenizer
(records/evidence.py).
"""

from collections.abc import Iterator

import numpy as np

from scalelab.laws.observations import Array, Observations, alike
from scalelab.study.quality.finding import QualityFinding, run_names
from scalelab.study.quality.tuning import cell_numbers
from scalelab.units import si

NAMED = 4  # cells that a reason names


def best_recipes(runs: Observations) -> Iterator[QualityFinding]:
    """What is left out of cells with several recipes, and optima at an end of what was tried."""
    settings = {name: value for name, value in runs.recipe.items() if len(np.unique(value)) > 1}
    if not settings or not len(runs):
        return
    cell = cell_numbers(runs)
    recipe = alike(cell, *settings.values())  # numbered within the cells
    first = np.unique(recipe, return_index=True)[1]
    tried = np.bincount(cell[first])
    if (tried < 2).all():
        return
    loss = np.bincount(recipe, runs.L) / np.bincount(recipe)
    order = np.lexsort((loss, cell[first]))  # recipes, the best of each cell first
    best = order[np.searchsorted(cell[first][order], np.arange(len(tried)))]
    worse = recipe != best[cell]
    many = np.flatnonzero(tried > 1)
    differ = [name for name, value in settings.items() if _spread(value[first], cell[first])]
    alone = f"; the other {len(tried) - len(many)} tried one" if len(many) < len(tried) else ""
    reason = (
        f"another {' or '.join(differ)} was better at the same size and tokens, and the best of each size "
        f"and tokens is fitted ({len(many)} of {len(tried)} tried up to {tried.max()} recipes{alone})"
    )
    yield QualityFinding("recipe", run_names(runs, worse), reason, excluded=True)
    for name in differ:
        yield from _at_an_end(runs, name, cell, ~worse)


def _spread(values: Array, cell: Array) -> bool:
    """Whether a setting has several values in any cell."""
    return len(np.unique(alike(cell, values))) > len(np.unique(cell))


def _at_an_end(runs: Observations, name: str, cell: Array, best: Array) -> Iterator[QualityFinding]:
    """Best values that are the smallest or the largest of those tried in their cell."""
    value = runs.recipe[name]
    if not np.issubdtype(value.dtype, np.number):
        return
    low, high = np.full((2, cell.max() + 1), np.nan)
    known = np.isfinite(value)
    order = np.lexsort((value[known], cell[known]))
    mine, sorted_values = cell[known][order], value[known][order]
    first = np.unique(mine, return_index=True)[1]
    low[mine[first]] = sorted_values[first]
    high[mine[first]] = sorted_values[np.append(first[1:], len(mine)) - 1]
    several = high > low
    ends = best & several[cell] & ((value == low[cell]) | (value == high[cell]))
    rows = np.flatnonzero(ends)[np.unique(cell[ends], return_index=True)[1]]
    if not rows.size:
        return
    shown = "; ".join(
        f"{value[row]:.3g}, the {'smallest' if value[row] == low[cell[row]] else 'largest'}, "
        f"at {si(runs.N[row])} parameters and {si(runs.D[row])} tokens"
        for row in rows[:NAMED]
    )
    more = f"; and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
    reason = (
        f"the best {name} is at an end of the values tried for {len(rows)} of {several.sum()} sizes and "
        f"tokens, so a better one may lie beyond ({shown}{more})"
    )
    yield QualityFinding("recipe at an end", run_names(runs, ends), reason, grave=True)
