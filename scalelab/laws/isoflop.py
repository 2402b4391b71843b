"""IsoFLOP slices: per budget the best size, and across budgets how it grows.

    N*(C) = N0 (C/C0)^a,  D*(C) = D0 (C/C0)^b,  L*(C) as a power law, with and without a floor

Per slice a local parabola (valley.py) gives N* and L*; D* = C / f(N*), where the FLOPs per
token f are read between the slice's own runs, linearly in ln N. Slices without an interior
minimum are refused with their reason and take no further part.

Uncertainty: the noise is drawn again, not the runs (interval.py says why). Each replicate adds
Gaussian noise to the fitted losses and repeats everything, choice of window included. The
noise is the residual of the parabolas, pooled over slices, with its own uncertainty: a
replicate's variance is s^2 k / chi2_k for k spare points, so intervals widen as a t
distribution's do. Branches of one trunk share one draw. Residuals hold seed noise and misfit.
Source: the posterior of a normal linear model, Gelman et al. 2013, Bayesian Data Analysis,
section 14.2; residual bootstrap, Efron & Tibshirani 1993, section 9.4.

Source: Hoffmann et al. 2022, Approach 2, arXiv:2203.15556.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.stats import chi2

from scalelab.errors import FitError
from scalelab.laws.base import Array, Law, LawFit, Observations, Optimum, Replicates
from scalelab.laws.trend import Trends
from scalelab.laws.valley import Window, best_size, vertices
from scalelab.units import sci


@dataclass(frozen=True, eq=False)
class Slice:
    """One budget: its runs, and its minimum or why there is none."""

    flops: float
    runs: Observations
    refused: str | None
    at_edge: bool
    N: float
    """N*, NaN when refused; D and L likewise."""
    D: float
    L: float
    window: Window | None
    coefficients: Array | None
    """c0, c1, c2 of the parabola."""

    @classmethod
    def of(cls, runs: Observations, flops: float, factor: float) -> "Slice":
        """The slice of all runs planned for exactly these FLOPs."""
        runs = runs.take(runs.flops_planned == flops)
        found = vertices(runs.N, runs.L[None], factor)
        window = coefficients = None
        if found.refused[0] is None:
            window = Window.around(runs.N, float(best_size(runs.N, runs.L[None])[0]), factor)
            coefficients = window.coefficients(runs.L[None])[0]
        N, L = float(found.N[0]), float(found.L[0])
        D = float(_tokens(runs, flops, found.N)[0])
        edge = bool(found.at_edge[0])
        return cls(flops, runs, found.refused[0], edge, N, D, L, window, coefficients)

    @property
    def fitted(self) -> Array:
        """The parabola at the window's points; measured losses elsewhere."""
        losses = self.runs.L.copy()
        losses[self.window.chosen] = self.window.design @ self.coefficients
        return losses

    @property
    def sides(self) -> tuple[int, int]:
        """Distinct sizes below and above the minimum."""
        sizes = np.unique(self.runs.N)
        return int(np.sum(sizes < self.N)), int(np.sum(sizes > self.N))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why this minimum may be worth less than it seems."""
        found = []
        if self.refused is None:
            if min(self.sides) < 3:
                found.append("fewer than three sizes on one side of the minimum")
            if self.window.spare < 1:
                found.append("three sizes fit a parabola exactly: its error cannot be seen")
            widest = float(np.exp(np.abs(self.window.design[:, 1]).max()))
            if widest > 8:
                found.append(f"the parabola reaches {widest:.0f}x from the lowest run: biased")
        off = float(np.max(np.abs(self.runs.C / self.flops - 1)))
        if off > 0.02:
            found.append(f"a run spent {off:.0%} more or less than the budget")
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """The minimum as schema 1 has it; None where refused."""
        known = self.refused is None
        return {
            "flops": self.flops,
            "n_params": self.N if known else None,
            "n_tokens": self.D if known else None,
            "loss": self.L if known else None,
            "at_edge": self.at_edge,
            "refused": self.refused,
            "n_runs": len(self.runs),
            "n_sizes": len(np.unique(self.runs.N)),
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True)
class IsoFlop(Law):
    """Local parabolas, then power laws through their minima."""

    formula = "N* = N0 (C/C0)^a, D* = D0 (C/C0)^b, L* = L0 (C/C0)^-l or E + K (C/C0)^-gamma"
    source = "Hoffmann et al. 2022, Approach 2, arXiv:2203.15556"

    window: float = 4.0
    """Sizes within this factor of the lowest run shape the parabola (valley.py)."""

    def variants(self) -> Mapping[str, "IsoFlop"]:
        return {}

    def fit(self, runs: Observations) -> "IsoFlopFit":
        if not runs.budgets.size:
            raise FitError(
                "no run says which isoFLOP budget it was planned for",
                where="flops_planned, empty in every row",
                fix="add the column flops_planned (equal within a slice) or use --law chinchilla",
            )
        slices = tuple(Slice.of(runs, float(C), self.window) for C in runs.budgets)
        kept = [s for s in slices if s.refused is None]
        if len(kept) < 2:
            raise FitError(
                f"{len(kept)} of {len(slices)} budgets have an interior minimum; a trend needs 2",
                where="; ".join(f"{sci(s.flops)} FLOPs: {s.refused or 'interior'}" for s in slices),
                fix="add sizes beyond the end where the loss is lowest, or add budgets",
                evidence=slices,
            )
        return IsoFlopFit(self, runs, slices)


@dataclass(frozen=True, eq=False)
class IsoFlopFit(LawFit):
    """The minima and their trends."""

    law: IsoFlop
    runs: Observations
    slices: tuple[Slice, ...]

    @cached_property
    def minima(self) -> tuple[Slice, ...]:
        """The slices with an interior minimum."""
        return tuple(s for s in self.slices if s.refused is None)

    @cached_property
    def trends(self) -> "Trends":
        """The power laws through the minima, as one replicate."""
        C, N, D, L = (np.array([getattr(s, k) for s in self.minima]) for k in ("flops", *"NDL"))
        return Trends.of(C, N[None], D[None], L[None], None)

    @property
    def form(self) -> str:
        """Which form of L*(C) speaks for this fit: "floor" or "power"."""
        return self.trends.form

    @property
    def params(self) -> Mapping[str, float]:
        """Constants of the trends; E, K, gamma from three minima on."""
        return {k: float(v[0]) for k, v in self.trends.values.items()}

    @property
    def exponents(self) -> Mapping[str, float]:
        """The exponents of N* and D*, each fitted to its own minima."""
        return {"a": self.params["a"], "b": self.params["b"]}

    broken = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the number and the course of the minima leave open."""
        lost, found = len(self.slices) - len(self.minima), []
        if lost:
            found.append(f"{lost} of {len(self.slices)} budgets refused: no interior minimum")
        m, floor = len(self.minima), self.trends.floor
        if m == 2:
            found.append("two minima: a power law fits them exactly, so its error cannot be seen")
        if m == 3:
            found.append("three minima: the form with a floor fits L* exactly, shown for contrast")
        if m >= 4 and not floor.is_floor[0]:
            found.append(
                f"the minima show no floor (best E = {floor.E[0]:.3g} nats per token, "
                f"gamma = {floor.gamma[0]:.3g}): the pure power law forecasts L*, "
                "the bent form stands for contrast"
            )
        by_kind: dict[str, list[str]] = {}
        for s in self.slices:
            for warning in s.warnings:
                by_kind.setdefault(warning, []).append(sci(s.flops))
        found += [f"{warning} (budgets {', '.join(at)})" for warning, at in by_kind.items()]
        return tuple(found)

    @property
    def evidence_end(self) -> float:
        return self.minima[-1].flops

    def optimum(self, C: Array | float) -> Optimum:
        return self.trends.optimum(np.asarray(C, float))

    def frontiers(self, C: float) -> dict[str, float]:
        floor = self.trends.floor
        more = {} if floor is None else {"floor": float(floor(C)[0])}
        return {"power": float(self.trends.L(C)[0]), **more}

    def expected(self, runs: Observations) -> None:
        return None

    @property
    def noise(self) -> tuple[float, int]:
        """Pooled residual sd of the parabolas, nats per token, and its degrees of freedom."""
        square = sum(float(np.sum((s.runs.L - s.fitted) ** 2)) for s in self.minima)
        spare = sum(s.window.spare for s in self.minima)
        return (float(np.sqrt(square / spare)) if spare else float("nan")), spare

    @cached_property
    def _drawn(self) -> dict[tuple[int, int], tuple[Array, Array, Array, Array]]:
        return {}

    def drawn(self, count: int, seed: int) -> tuple[Array, Array, Array, Array] | None:
        """C (m,), and N*, D*, L* of every replicate, (count, m); NaN where it lost a minimum.

        None when the parabolas leave no residual to draw from.
        """
        sigma, spare = self.noise
        if not spare:
            return None
        if (count, seed) not in self._drawn:
            rng = np.random.default_rng(seed)
            sigmas = sigma * np.sqrt(spare / rng.chisquare(spare, size=(count, 1)))
            _, group = np.unique(self.runs.group, return_inverse=True)
            luck = sigmas * rng.standard_normal((count, group.max() + 1))
            N, L, D = [], [], []
            for s in self.minima:
                mine = group[np.isin(self.runs.run, s.runs.run)]
                found = vertices(s.runs.N, s.fitted + luck[:, mine], self.law.window)
                N.append(found.N)
                L.append(found.L)
                D.append(_tokens(s.runs, s.flops, found.N))
            C = np.array([s.flops for s in self.minima])
            self._drawn[count, seed] = C, *(np.stack(v, axis=1) for v in (N, D, L))
        return self._drawn[count, seed]

    def replicates(self, count: int, seed: int) -> Replicates | None:
        drawn = self.drawn(count, seed)
        if drawn is None:
            return None
        C, N, D, L = drawn
        least = 3 if self.form == "floor" else 2
        good = np.sum(np.isfinite(N), axis=1) >= least
        trends = Trends.of(C, N[good], D[good], L[good], self.form)
        return Replicates(
            asked=count,
            failed=int(np.sum(~good)),
            unit="residual of the parabolas, pooled over budgets",
            values=trends.values,
            optimum=lambda C: trends.optimum(np.full(int(good.sum()), float(C))),
            notes=self._notes(N),
        )

    def _notes(self, N: Array) -> tuple[str, ...]:
        """Minima that noise can erase, and minima that scatter more than noise explains."""
        notes = []
        for s, lost in zip(self.minima, np.mean(~np.isfinite(N), axis=0), strict=True):
            if lost > 0.05:
                notes.append(f"budget {sci(s.flops)}: {lost:.0%} of replicates lose the minimum")
        m = len(self.minima)
        if m > 2:
            u = np.log([s.flops for s in self.minima])
            u = u - u.mean()
            kept = 1 - 1 / m - u**2 / np.sum(u**2)  # diagonal of what a line leaves
            expected = float(np.sum(kept * np.nanvar(np.log(N), axis=0)))
            seen = float(np.sum(self.trends.N.residual[0] ** 2))
            ratio = seen / expected if expected > 0 else 1.0
            if ratio > chi2.ppf(0.95, m - 2) / (m - 2) and seen > 1e-12:
                notes.append(
                    f"N* scatters {np.sqrt(ratio):.1f}x more around its power law than noise "
                    "explains: one line may not hold, and the intervals are too narrow"
                )
        return tuple(notes)

    def to_json(self) -> dict[str, Any]:
        sigma, spare = self.noise
        return {
            "params": dict(self.params),
            "exponents": dict(self.exponents),
            "minima": [s.to_json() for s in self.slices],
            "loss_form": self.form,
            "window": self.law.window,
            "residual_sd": sigma if spare else None,
            "residual_dof": spare,
            "warnings": list(self.warnings),
        }


def _tokens(runs: Observations, flops: float, N: Array) -> Array:
    """D = C / f(N), with the FLOPs per token f read between the runs, linearly in ln N."""
    sizes, which = np.unique(runs.N, return_inverse=True)
    cost = np.log(runs.C / runs.D)
    known = np.array([cost[which == k].mean() for k in range(len(sizes))])
    filled = np.where(np.isfinite(N), N, sizes[0])
    D = flops / np.exp(np.interp(np.log(filled), np.log(sizes), known))
    return np.where(np.isfinite(N), D, np.nan)
