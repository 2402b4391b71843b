"""What the isoFLOP budgets show: edges, hills, short sides, ruined runs.

Symbols: w = ln(N / N_lowest).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit  # scipy.stats takes .4 s to import

from scalelab.laws.isoflop.outliers import Consensus
from scalelab.laws.observations import Array, Observations
from scalelab.study.quality.finding import QualityFinding, run_names
from scalelab.units import sci, si

OFF_CENTRE = 2.0  # times; seven sizes over +-4x then leave two on one side, and the next drift none
SIDE = 3  # sizes on each side of the lowest loss: two make a slope, the third can contradict it
WINDOW, NEAREST = 4.0, 5  # what shapes a parabola: within this factor, or so many sizes
LEVEL = 0.95  # of the interval of a curvature
MANY = 2000  # runs; beyond, the slow robust look is taken only where a plain one asks for it
CROWD = 60  # runs of one budget; the robust look takes .03 s at these, and 1 s at 1000
NAMED = 6  # budgets that a reason names


@dataclass(frozen=True, eq=False)
class _Slice:
    """The runs of one budget."""

    C: float
    row: Array
    """Where they stand among all runs."""
    N: Array
    L: Array

    def inspect(self) -> Iterator[tuple[str, Array, str]]:
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


def valley_findings(runs: Observations) -> Iterator[QualityFinding]:
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
        for code, rows, detail in s.inspect():
            found[code].append((s.C, rows, detail))
    found["ruined"] = list(_ruined(slices, len(runs)))
    for code, each in found.items():
        if each:
            listed = "; ".join(f"{sci(C)} FLOPs: {detail}" for C, _, detail in each[:NAMED])
            more = f"; and {len(each) - NAMED} budgets more" if len(each) > NAMED else ""
            rows = np.concatenate([rows for _, rows, _ in each])
            yield QualityFinding(code, run_names(runs, rows), f"{WHAT[code]} ({listed}{more})")


def _ruined(slices: list[_Slice], n: int) -> Iterator[tuple[float, Array, str]]:
    """Runs that most of their slice contradict, as the isoFLOP law finds and leaves them out."""
    looked = [s for s in slices if n <= MANY or (len(s.N) > 3 and s.doubtful().any())]
    parts = [part for s in looked for part in s.small_parts()]
    agreed = [Consensus.of(s.N, s.L) for s in parts]
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
    with np.errstate(over="ignore"):  # then there is no lower end, and no valley
        sd = np.sqrt(np.sum((L[near] - X @ c) ** 2) / spare)
    error = float(sd * np.sqrt(np.sum(onto[2] ** 2)))
    return float(c[2]), float(c[2] - stdtrit(spare, (1 + LEVEL) / 2) * error)
