"""The evidence, looked at before any law is fitted: what is left out, what is doubtful, and why.

    sift(runs) -> (the runs that a law may see, every finding)

A run is left out only where it cannot be what it claims to be: the same run twice, or compute
spent that is not the compute planned. Everything else stays in and is told with its run ids:
the laws refuse or resist what they cannot use (slices.py refuses edges and hills and leaves out
ruined runs; Huber's penalty resists them), and a reader decides.

Symbols: f = C / (6 N D), what a run spent as a share of the shorthand; w = ln(N / N_lowest).

Source: that these are what goes wrong: METHODS of Porian et al. 2024, arXiv:2406.19146 (counts,
warmup, checkpoints before the cooldown); Czech et al. 2026, arXiv:2603.22339 (off-centre grids).

Not here: statuses, tokenizers and counts, which are columns of a table (the track room); runs
that one law cannot explain (influence.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.special import stdtrit  # scipy.stats takes .4 s to import

from scalelab.laws.columns import STEPS, UNIQUE_TOKENS
from scalelab.laws.observations import Array, Observations, alike
from scalelab.laws.ruined import Agreed
from scalelab.units import sci, si

SPENT = 0.05  # share by which spent may differ from planned FLOPs; a point beside its slice
BESIDE = 6  # runs of nearby size that show how FLOPs are counted; two of them may be at fault
OFF_CENTRE = 2.0  # times; seven sizes over +-4x then leave two on one side, and the next drift none
SIDE = 3  # sizes on each side of the lowest loss: two make a slope, the third can contradict it
WINDOW, NEAREST = 4.0, 5  # what shapes a parabola: within this factor, or so many sizes
LEVEL = 0.95  # of the interval of a curvature
MIXED = 0.1  # jump of f between equal sizes: a head or attention counted here, and not there
NEAR = 1.02  # sizes within this factor are equal; f moves by less than 1% on that way
LONGER, RISE = 1.5, 0.01  # this much more data lowers loss by 1% or more; two seeds differ by .4%
MANY = 2000  # runs; beyond, the slow robust look is taken only where a plain one asks for it
CROWD = 60  # runs of one budget; the robust look takes .03 s at these, and 1 s at 1000
NAMED = 6  # budgets that a reason names


@dataclass(frozen=True)
class Finding:
    """One thing about the evidence that a reader must know."""

    code: str
    runs: tuple[str, ...]
    """Ids of the runs that it is about."""
    reason: str
    excluded: bool = False
    """Whether the runs were left out."""
    grave: bool = False
    """Whether it counts against the forecast; what a law says itself does not count twice."""

    def to_json(self) -> dict[str, Any]:
        """The record as JSON types."""
        return {
            "code": self.code,
            "runs": list(self.runs),
            "reason": self.reason,
            "excluded": self.excluded,
        }


def sift(runs: Observations) -> tuple[Observations, tuple[Finding, ...]]:
    """The runs that a law may see, and all findings, those that leave out runs first."""
    found = [*_duplicates(runs), *_spent_otherwise(runs)]
    out = {run for finding in found if finding.excluded for run in finding.runs}
    kept = runs if not out else runs.take(~np.isin(runs.run, list(out)))
    return kept, (*found, *inspect(kept))


def inspect(runs: Observations) -> tuple[Finding, ...]:
    """What is doubtful about runs that all stay in."""
    if not len(runs):
        return ()
    found = [*_repeats(runs), *_mixed_counts(runs), *_unfinished(runs), *_rising(runs)]
    return (*found, *_of_slices(runs))


def _names(runs: Observations, which: Array) -> tuple[str, ...]:
    return tuple(map(str, runs.run[which]))


def _duplicates(runs: Observations) -> Iterator[Finding]:
    """Rows that repeat another in every number: one run, written twice."""
    which = alike(runs.N, runs.D, runs.L, runs.C, runs.seed)
    _, first = np.unique(which, return_index=True)
    for row in np.flatnonzero(first[which] != np.arange(len(runs))):
        reason = (
            f"repeats {runs.run[first[which[row]]]} in size, tokens, FLOPs, loss "
            f"({runs.L[row]:.6g}) and seed: one run, written twice"
        )
        yield Finding("duplicate", _names(runs, row[None]), reason, excluded=True)


def _spent_otherwise(runs: Observations) -> Iterator[Finding]:
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
        yield Finding("another count", _names(runs, known[off & ~alone]), reason)
    for row in np.sort(known[alone]):
        reason = f"spent {sci(runs.C[row])} FLOPs, planned {sci(runs.flops_planned[row])}"
        yield Finding("spent", _names(runs, row[None]), reason, excluded=True)


def _as_its_neighbours(signs: Array) -> Array:
    """Whether at least half of the BESIDE nearest in a row have the same sign."""
    k = min(BESIDE + 1, len(signs))
    if k < 3:
        return np.zeros(len(signs), bool)
    start = np.clip(np.arange(len(signs)) - k // 2, 0, len(signs) - k)
    same = np.sum(sliding_window_view(signs, k)[start] == signs[:, None], axis=1) - 1
    return same >= (k - 1) / 2


def _repeats(runs: Observations) -> Iterator[Finding]:
    which = alike(
        runs.N,
        runs.D,
        runs.recorded(UNIQUE_TOKENS.name),
        runs.recorded(STEPS.name),
        runs.flops_planned,
        runs.seed,
        *runs.own_columns.values(),
    )
    again = np.bincount(which)[which] > 1
    if not again.any():
        return
    order = np.lexsort((runs.L, which))
    starts = np.flatnonzero(np.diff(which[order], prepend=-1))
    low, high = (at.reduceat(runs.L[order], starts) for at in (np.minimum, np.maximum))
    apart = float((high - low).max())
    reason = (
        f"{again.sum()} runs share size, tokens and seed with another and differ in loss, by up "
        f"to {apart:.2g} nats: is the seed column filled in, the recipe the same?"
    )
    yield Finding("repeat", _names(runs, again), reason)


def _mixed_counts(runs: Observations) -> Iterator[Finding]:
    """FLOPs per token and parameter that jump between equal sizes."""
    order = np.argsort(runs.N, kind="stable")
    N, f = runs.N[order], (runs.C / (6 * runs.N * runs.D))[order]
    jump = (N[1:] <= NEAR * N[:-1]) & (np.abs(np.log(f[1:] / f[:-1])) > np.log1p(MIXED))
    if not jump.any():
        return
    which = np.unique(np.concatenate([order[1:][jump], order[:-1][jump]]))
    worst = np.argmax(np.abs(np.log(f[1:] / f[:-1])) * jump)
    reason = (
        f"flops / (6 N D) is {f[worst]:.3g} and {f[worst + 1]:.3g} for runs of equal size "
        f"({si(N[worst])}): are parameters or FLOPs counted in two ways?"
    )
    yield Finding("mixed counts", _names(runs, which), reason, grave=True)


def _unfinished(runs: Observations) -> Iterator[Finding]:
    """Several token counts from one trunk: branches, or losses before the cooldown."""
    _, group = np.unique(runs.group, return_inverse=True)
    if group.max() + 1 == len(runs):
        return
    points = alike(group, runs.D)
    _, first = np.unique(points, return_index=True)
    many = np.bincount(group[first])[group] > 1
    if many.any():
        reason = (
            f"{many.sum()} runs share a group with runs of other token counts: right for branches "
            "that each had a cooldown; checkpoints before it have losses that are too high"
        )
        yield Finding("intermediate", _names(runs, many), reason)


def _rising(runs: Observations) -> Iterator[Finding]:
    """Loss that rises with tokens at equal size: diverging, repeating data, or a bad rate.

    Where a law reads more of the recipe, such as the rate, it is the law's to explain.
    """
    if runs.own_columns:
        return
    _, size = np.unique(runs.N, return_inverse=True)
    at = 1e4 * size + np.log(runs.D)  # one sorted line, sizes far apart on it
    order = np.argsort(at, kind="stable")
    shorter = np.searchsorted(at[order], at - np.log(LONGER) + 1e-6, side="right") - 1
    before = order[np.maximum(shorter, 0)]
    rise = np.where((shorter >= 0) & (size[before] == size), runs.L / runs.L[before] - 1, 0)
    up = rise > RISE
    if up.any():
        reason = (
            f"loss rises with tokens at equal size, by {rise.max():.1%} of the loss at the worst: "
            "unstable, repeated text, or another recipe?"
        )
        yield Finding("rising", _names(runs, up), reason, grave=True)


@dataclass(frozen=True, eq=False)
class _Slice:
    """The runs of one budget."""

    C: float
    row: Array
    """Where they stand among all runs."""
    N: Array
    L: Array

    def look(self) -> Iterator[tuple[str, Array, str]]:
        """Code, rows and detail of everything but ruined runs."""
        sizes, which = np.unique(self.N, return_inverse=True)
        if len(sizes) < SIDE:
            runs = "one run" if len(self.N) == 1 else f"{len(self.N)} runs"
            yield "few sizes", self.row, f"{runs} of {len(sizes)} size(s)"
            return
        best = int(np.argmin(np.bincount(which, self.L) / np.bincount(which)))
        below, above = best, len(sizes) - 1 - best
        lowest = self.row[which == best]
        if min(below, above) == 0:
            side = "smallest" if below == 0 else "largest"
            yield "edge", lowest, f"the {side}, {si(sizes[best])}"
            return
        if min(below, above) < SIDE:
            yield "few on a side", lowest, f"{below} smaller, {above} larger"
        middle = float(np.exp(np.mean(np.log(sizes))))
        if max(sizes[best] / middle, middle / sizes[best]) > OFF_CENTRE:
            yield "off centre", lowest, f"lowest at {si(sizes[best])}, middle {si(middle)}"
        c2, low = _curvature(np.log(self.N / sizes[best]), self.L)
        if c2 <= 0:
            yield "hill", self.row, f"curvature {c2:.2g}"
        elif low is not None and low <= 0:
            yield "flat", self.row, f"curvature {c2:.2g}, from {low:.2g}"

    def doubtful(self) -> Array:
        """Runs that a plain parabola cannot explain; shape (n,). Ruined ones are among them."""
        x = np.log(self.N / self.N.mean())
        Q, _ = np.linalg.qr(np.vander(x, 3))
        miss = self.L - Q @ (Q.T @ self.L)
        left_out = np.abs(miss) / np.maximum(1 - np.sum(Q**2, axis=1), 1e-9)
        spread = 1.4826 * float(np.median(np.abs(miss)))
        return (left_out > 0.005 * self.L) & (left_out > 4 * spread)

    def small_parts(self) -> Iterator["_Slice"]:
        """The slice, or where it is crowded its doubtful runs among some of the others."""
        if len(self.N) <= CROWD:
            yield self
            return
        doubt = self.doubtful()
        far, rest = np.flatnonzero(doubt), np.flatnonzero(~doubt)
        rest = rest[np.argsort(self.N[rest], kind="stable")]
        beside = rest[np.linspace(0, len(rest) - 1, 3 * CROWD // 4).astype(int)]
        for i in range(0, len(far), CROWD // 4):
            part = np.concatenate([far[i : i + CROWD // 4], beside])
            yield _Slice(self.C, self.row[part], self.N[part], self.L[part])


WHAT = {
    "few sizes": "too few sizes to see a valley",
    "edge": "the lowest loss is at an end of the sizes",
    "few on a side": f"fewer than {SIDE} sizes on a side of the lowest loss",
    "off centre": f"the lowest loss is more than {OFF_CENTRE:g}x from the middle of the sizes",
    "hill": "the parabola opens downward",
    "flat": f"the {LEVEL:.0%} interval of the curvature contains zero (nats per square of ln N)",
    "ruined": "loss far from the valley of its neighbours: diverged, mistyped, another recipe?",
}


def _of_slices(runs: Observations) -> Iterator[Finding]:
    """What the budgets show, one finding of each kind."""
    known = np.flatnonzero(np.isfinite(runs.flops_planned))
    if not known.size:
        return
    order = known[np.argsort(runs.flops_planned[known], kind="stable")]
    planned = runs.flops_planned[order]
    parts = np.split(order, np.flatnonzero(np.diff(planned)) + 1)
    slices = [_Slice(float(runs.flops_planned[i[0]]), i, runs.N[i], runs.L[i]) for i in parts]
    found: dict[str, list[tuple[float, Array, str]]] = {code: [] for code in WHAT}
    for s in slices:
        for code, rows, detail in s.look():
            found[code].append((s.C, rows, detail))
    found["ruined"] = list(_ruined(slices, len(runs)))
    for code, each in found.items():
        if each:
            told = "; ".join(f"{sci(C)} FLOPs: {detail}" for C, _, detail in each[:NAMED])
            more = f"; and {len(each) - NAMED} budgets more" if len(each) > NAMED else ""
            rows = np.concatenate([rows for _, rows, _ in each])
            yield Finding(code, _names(runs, rows), f"{WHAT[code]} ({told}{more})")


def _ruined(slices: list[_Slice], n: int) -> Iterator[tuple[float, Array, str]]:
    """Runs that most of their slice contradict, as the isoFLOP law finds and leaves them out."""
    looked = [s for s in slices if n <= MANY or (len(s.N) > 3 and s.doubtful().any())]
    parts = [part for s in looked for part in s.small_parts()]
    agreed = [Agreed.of(s.N, s.L) for s in parts]
    spreads = [a.spread for a in agreed if a is not None]
    for s, a in zip(parts, agreed, strict=True):
        if a is None:
            continue
        far = a.ruined(s.L, float(np.median(spreads)))
        if far.any():
            share = (s.L / a.expected - 1)[far]
            yield s.C, s.row[far], ", ".join(f"{x:+.1%} of the loss" for x in share)


def _curvature(w: Array, L: Array) -> tuple[float, float | None]:
    """c2 of the parabola around the lowest size, and the lower end of its interval if any."""
    sizes = np.unique(np.abs(w))
    near = np.abs(w) <= max(np.log(WINDOW), sizes[:NEAREST][-1]) + 1e-9
    X = np.vander(w[near], 3, increasing=True)
    onto = np.linalg.pinv(X)
    c = onto @ L[near]
    spare = len(X) - min(3, len(np.unique(w[near])))
    if not spare:
        return float(c[2]), None
    sd = np.sqrt(np.sum((L[near] - X @ c) ** 2) / spare)
    error = float(sd * np.sqrt(np.sum(onto[2] ** 2)))
    return float(c[2]), float(c[2] - stdtrit(spare, (1 + LEVEL) / 2) * error)
