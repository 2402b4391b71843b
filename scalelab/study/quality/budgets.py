"""IsoFLOP budgets as they were spent, and runs that did not keep to theirs.

    realised_budgets(runs) -> (the runs under the budgets that they share, findings)

A budget is a label. Where the runs of a label agree in the compute that they spent, that compute
is the budget, however the label was rounded. Where the labels make no slices (none were given, or
the compute of each run stands in their place), budgets are found by clustering ln C: runs of one
budget stand close together, far from those of the next.

Symbols: C training FLOPs spent, or 6 N D where that is the count in which budgets were kept.

Not here: what the slices of the budgets show (valleys.py).
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from scalelab.laws.observations import Array, Observations
from scalelab.study.quality.finding import QualityFinding, run_names
from scalelab.units import sci

SPENT = 0.05  # share by which spent may differ from planned FLOPs; a point beside its slice
BESIDE = 6  # runs of nearby size that show how FLOPs are counted; two of them may be at fault
ROUNDED = 0.02  # below it a label is right: steps and batches are whole numbers, and cost that much
AGREE = 0.75  # share of a label's runs that agree; the rest may have stopped early or gone on
SAME = 0.01  # labels this close are one budget: 3.16e18 and 3.162e18
MADE = 3  # sizes of a label that make it a slice: a parabola needs three
FOUND = 5  # sizes of a budget that is found: three runs of equal cost happen in any grid
MOST = 0.9  # share of the runs in such budgets; diagonals of a grid of N and D leave its corners out
APART = 2.0  # distance between found budgets, as a multiple of the widest of them
NAMED = 6  # budgets that a reason names


def realised_budgets(runs: Observations) -> tuple[Observations, tuple[QualityFinding, ...], bool]:
    """The runs under realised budgets, the findings, and whether the budgets were given.

    Budgets that are found and not given are no plan that a run could depart from.
    """
    given = np.isfinite(runs.flops_planned)
    if given.any() and 2 * _in_slices(runs.flops_planned, runs.N, MADE)[given].sum() >= given.sum():
        return *_relabelled(_merged(runs)), True
    budget = _clusters(runs)
    if budget is None:
        return runs, (), True
    count = len(np.unique(budget[np.isfinite(budget)]))
    labels = len(np.unique(runs.flops_planned[given]))
    why = (
        f"flops_planned has {labels} values for {given.sum()} runs"
        if given.any()
        else "no isoFLOP budgets are given"
    )
    ends = f"{sci(np.nanmin(budget))} to {sci(np.nanmax(budget))} FLOPs"
    reason = f"{why}, and the compute spent forms {count} budgets, {ends}: these are used as slices"
    found = QualityFinding("budgets found", run_names(runs, np.isfinite(budget)), reason)
    return replace(runs, flops_planned=budget), (found,), False


def spent_otherwise(runs: Observations) -> Iterator[QualityFinding]:
    """Runs whose spent FLOPs are not those planned.

    Where most runs of nearby sizes are off on the same side, FLOPs are counted in another way
    than they were planned in; then no run is at fault.
    """
    known = np.flatnonzero(np.isfinite(runs.flops_planned))
    if not known.size:
        return
    known = known[np.argsort(runs.N[known], kind="stable")]
    ratio = runs.C[known] / runs.flops_planned[known]
    off = np.abs(ratio - 1) > SPENT
    alone = off & ~_as_its_neighbours(np.sign(ratio - 1) * (np.abs(ratio - 1) > SPENT / 2))
    if (off & ~alone).any():
        low, high = np.quantile(ratio[off & ~alone], [0, 1])
        reason = (
            f"{int((off & ~alone).sum())} of {known.size} runs spent {low:.3g} to {high:.3g} times "
            "their plan, as others of their size did: FLOPs are counted otherwise than planned"
        )
        yield QualityFinding("another count", run_names(runs, known[off & ~alone]), reason)
    for row in np.sort(known[alone]):
        reason = f"spent {sci(runs.C[row])} FLOPs, planned {sci(runs.flops_planned[row])}"
        yield QualityFinding("spent", run_names(runs, row[None]), reason, excluded=True)


def _as_its_neighbours(signs: Array) -> Array:
    """Whether at least half of the BESIDE nearest in a row have the same sign."""
    k = min(BESIDE + 1, len(signs))
    if k < 3:
        return np.zeros(len(signs), bool)
    start = np.clip(np.arange(len(signs)) - k // 2, 0, len(signs) - k)
    same = np.sum(sliding_window_view(signs, k)[start] == signs[:, None], axis=1) - 1
    return same >= (k - 1) / 2


def _in_slices(budget: Array, N: Array, least: int) -> Array:
    """Mask of the runs whose budget has at least so many sizes."""
    inside = np.zeros(len(N), bool)
    known = np.isfinite(budget)
    pairs = np.unique(np.stack([budget[known], N[known]]), axis=1)
    budgets, sizes = np.unique(pairs[0], return_counts=True)
    inside[known] = np.isin(budget[known], budgets[sizes >= least])
    return inside


def _merged(runs: Observations) -> Observations:
    """The runs with labels that differ by less than SAME made equal: to the commonest of them."""
    known = np.isfinite(runs.flops_planned)
    labels, which, counts = np.unique(runs.flops_planned[known], return_inverse=True, return_counts=True)
    group = np.cumsum(np.diff(np.log(labels), prepend=np.log(labels[0])) > SAME)
    if group[-1] + 1 == len(labels):
        return runs
    common = np.empty(group[-1] + 1)
    for one in range(len(common)):
        mine = np.flatnonzero(group == one)
        common[one] = labels[mine[np.argmax(counts[mine])]]
    merged = runs.flops_planned.copy()
    merged[known] = common[group][which]
    return replace(runs, flops_planned=merged)


def _relabelled(runs: Observations) -> tuple[Observations, tuple[QualityFinding, ...]]:
    """The runs under what the runs of each label spent, and what was changed."""
    known = np.flatnonzero(np.isfinite(runs.flops_planned))
    label, which = np.unique(runs.flops_planned[known], return_inverse=True)
    counts = [np.log(spent[known] / label[which]) for spent in (runs.C, 6 * runs.N * runs.D)]
    misfits = [_from_label(x, which) for x in counts]
    chosen = int(np.argmin([np.abs(miss).sum() * (1 - 1e-9 * (k == 0)) for k, miss in enumerate(misfits)]))
    x, miss = counts[chosen], misfits[chosen]
    middle = x - miss
    close = np.bincount(which, np.abs(miss) <= SPENT) / np.bincount(which)
    shift = np.bincount(which, middle) / np.bincount(which)
    off = (np.abs(shift) > ROUNDED) & (close >= AGREE) & (np.bincount(which) >= MADE)
    if not off.any() or np.abs(miss).sum() > np.abs(x - _of_neighbours(x, which, runs.N[known])).sum():
        return runs, ()  # the labels are right; or the size explains the rest, not the label
    spent = np.where(off, label * np.exp(shift), label)
    planned = runs.flops_planned.copy()
    planned[known] = spent[which]
    pairs = [f"{sci(a)} is {sci(b)}" for a, b in zip(label[off], spent[off], strict=True)]
    more = f"; and {len(pairs) - NAMED} more" if len(pairs) > NAMED else ""
    reason = (
        f"{off.sum()} of {len(label)} budgets are not what their runs spent, and the runs of each agree: "
        f"the compute spent is taken as the budget ({'; '.join(pairs[:NAMED])}{more})"
    )
    found = QualityFinding("budget", run_names(runs, known[off[which]]), reason)
    return replace(runs, flops_planned=planned), (found,)


def _from_label(x: Array, which: Array) -> Array:
    """The distance of each value from the median of its label."""
    order = np.lexsort((x, which))
    first = np.searchsorted(which[order], np.arange(which.max() + 1))
    size = np.bincount(which)
    low, high = (x[order][first + half] for half in ((size - 1) // 2, size // 2))
    return x - ((low + high) / 2)[which]


def _of_neighbours(x: Array, which: Array, N: Array) -> Array:
    """The median of the values of nearby sizes under other labels; 0 where there are none."""
    order = np.argsort(N, kind="stable")
    k = min(2 * BESIDE + 1, len(x))
    start = np.clip(np.arange(len(x)) - k // 2, 0, len(x) - k)
    values = sliding_window_view(x[order], k)[start].copy()
    values[sliding_window_view(which[order], k)[start] == which[order][:, None]] = np.nan
    lone = np.isnan(values).all(axis=1)
    values[lone] = 0.0
    found = np.empty(len(x))
    found[order] = np.nanmedian(values, axis=1)
    return found


def _clusters(runs: Observations) -> Array | None:
    """The budget of each run by the compute spent, NaN for few; None where no budgets show."""
    among = np.isfinite(runs.flops_planned)
    among = among if among.any() else np.ones(len(runs), bool)
    found = [_cluster(np.log(spent[among]), runs.N[among]) for spent in (runs.C, 6 * runs.N * runs.D)]
    widths = [width for _, width in found]
    if not len(runs) or min(widths) == np.inf:
        return None
    budget = np.full(len(runs), np.nan)
    budget[among] = found[int(np.argmin(widths))][0]
    return budget


def _cluster(x: Array, N: Array) -> tuple[Array, float]:
    """The budget of every x = ln C, NaN outside of any, and the widest of them; infinite if none."""
    none = np.full(len(x), np.nan), np.inf
    if len(x) < 2 * FOUND:
        return none
    order = np.argsort(x, kind="stable")
    group = np.empty(len(x), int)
    group[order] = np.cumsum(np.diff(x[order], prepend=x[order[0]]) > SPENT)
    miss = _from_label(x, group)
    budget = np.exp(x - miss)
    inside = _in_slices(budget, N, FOUND)
    centres = np.unique(np.log(budget[inside]))
    width = 2 * float(np.abs(miss[inside]).max(initial=0.0))
    if inside.sum() < MOST * len(x) or len(centres) < 2 or width > 2 * SPENT:
        return none
    if np.diff(centres).min() - width < max(APART * width, SPENT):
        return none
    return np.where(inside, budget, np.nan), width
