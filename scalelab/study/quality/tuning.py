"""Cells whose learning rates and batches make a surface: its lowest point is the loss of the cell.

    tuned_cells(runs)   the runs with each such cell as one run, and what it says

The best of many settings is no fair loss of an N and D: it falls as more are tried (by .15% from 36 to
120 settings with a noise of .2%), so that cells tuned longer look better. Where a cell has enough
settings around its best ones, the lowest point of a surface through them is fitted instead
(laws/response.py): the cell's best run stays, with that loss. Where it has not, nothing happens here,
and the best recipe is taken as before (recipes.py).

Not here: rules for the best settings over N and D, which are a law (laws/forms/response.py).
"""

from dataclasses import replace

import numpy as np

from scalelab.laws.columns import UNIQUE_TOKENS
from scalelab.laws.observations import Array, Observations, alike
from scalelab.laws.response import LEAST_RUNS, ResponseMinimum, cells, lowest_point
from scalelab.study.quality.finding import QualityFinding, run_names

RATE = "learning_rate"
BATCHES = ("batch_tokens", "batch_size")
"""Columns of a batch; the first that varies is used, as one is the other times a constant."""
LEVEL = 0.8  # of the intervals that the finding states


def tuned_cells(runs: Observations) -> tuple[Observations, tuple[QualityFinding, ...], Array]:
    """Return the runs with each cell that has a surface as one run at its lowest point, and a finding.

    The last value marks the runs that stand for such a cell, shape (n,).

    Args:
        runs: The runs, with their recipe.
    """
    settings = _settings(runs)
    if not settings:
        return runs, (), np.zeros(len(runs), bool)
    cell = cell_numbers(runs)
    others = [v for k, v in runs.recipe.items() if k != RATE and k not in BATCHES]
    mixed = alike(cell, *others) if others else cell
    weight, L = runs.weight.copy(), runs.L.copy()
    out, stand, minima = *np.zeros((2, len(runs)), bool), []
    for rows in _by_number(cell):
        if len(rows) < LEAST_RUNS or len(np.unique(mixed[rows])) > 1:
            continue
        x = np.log(np.stack(list(settings.values()), axis=1)[rows])
        vary = [j for j in range(x.shape[1]) if len(np.unique(x[:, j])) > 1]
        if not vary or not np.isfinite(x).all():
            continue
        names = tuple(name for j, name in enumerate(settings) if j in vary)
        found = lowest_point(x[:, vary], np.log(runs.L[rows]), runs.weight[rows], names)
        if not isinstance(found, ResponseMinimum):
            continue
        best = rows[np.argmin(runs.L[rows])]
        out[rows[rows != best]], stand[best] = True, True
        L[best], weight[best] = np.exp(found.depth), 1.0
        minima.append((len(rows), found, float(np.log(runs.L[best])), names))
    if not minima:
        return runs, (), np.zeros(len(runs), bool)
    finding = _finding(runs, out, minima, int(cell.max()) + 1)
    return replace(runs, L=L, weight=weight).take(~out), (finding,), stand[~out]


def cell_numbers(runs: Observations) -> Array:
    """The number of each run's cell: equal size, tokens of whole steps, equal columns of the laws."""
    return alike(cells(runs.N, runs.D), runs.recorded(UNIQUE_TOKENS.name), *runs.own_columns.values())


def _settings(runs: Observations) -> dict[str, Array]:
    """The rates and batches that vary, as numbers above 0 or NaN."""
    found: dict[str, Array] = {}
    for name in (RATE, *BATCHES):
        values = runs.recipe.get(name)
        if values is None or not np.issubdtype(values.dtype, np.number):
            continue
        values = np.where(values > 0, values, np.nan).astype(float)
        if len(np.unique(values[np.isfinite(values)])) > 1 and not (
            name in BATCHES and found.keys() & {*BATCHES}
        ):
            found[name] = values
    return found


def _by_number(cell: Array) -> list[Array]:
    order = np.argsort(cell, kind="stable")
    return np.split(order, np.cumsum(np.bincount(cell))[:-1])


def _finding(
    runs: Observations,
    out: Array,
    minima: list[tuple[int, ResponseMinimum, float, tuple[str, ...]]],
    count: int,
) -> QualityFinding:
    sizes = [n for n, *_ in minima]
    widths = [0.5 * np.log(np.divide(*found.interval(LEVEL)[::-1])) for _, found, *_ in minima]
    gaps = [found.depth - best for _, found, best, _ in minima]
    names = list(dict.fromkeys(name for *_, each in minima for name in each))
    rest = f"; the other {count - len(minima)} keep their best run" if len(minima) < count else ""
    reason = (
        f"the loss of {len(minima)} of {count} sizes and tokens is the lowest point of a surface fitted over "
        f"{' and '.join(names)} ({min(sizes)} to {max(sizes)} runs each): known within {np.median(widths):.2%} "
        f"(median of the {LEVEL:.0%} intervals; at most {max(widths):.2%}), and {np.median(gaps):+.2%} from the best "
        f"run, which depends on how many were tried{rest}"
    )
    return QualityFinding("response", run_names(runs, out), reason, excluded=True)
