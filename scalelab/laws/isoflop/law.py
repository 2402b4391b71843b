"""IsoFLOP slices: per budget the best size, and across budgets how it grows.

    N*(C) = N0 (C/C0)^a,  D*(C) = D0 (C/C0)^b,  L*(C) as a power law, with and without a floor

Per slice a local parabola (valley.py) gives N* and L*; D* and C are what the slice's own runs
spent there (slices.py). Slices without an interior minimum are refused with their reason and
take no further part; nor do ruined runs (outliers.py).

Uncertainty: the noise is drawn again, not the runs (bootstrap.py says why). Each replicate adds
Gaussian noise to the fitted losses and repeats everything, choice of window included; what budgets
share beside it is added to the minima (scatter.py). The
noise is the residual of the parabolas, pooled over slices as a share of their loss (in nats
it falls with the loss, and pooled so it would widen every exponent), with its own uncertainty: a
replicate's variance is s^2 k / chi2_k for k spare points, so intervals widen as a t
distribution's do. Branches of one trunk share one draw. Residuals hold seed noise and misfit.
Akima's curve goes through every mean and leaves no residual: the noise is a cubic's, added to
the measured losses as its authors do.
Source: the posterior of a normal linear model, Gelman et al. 2013, Bayesian Data Analysis,
section 14.2; residual bootstrap, Efron & Tibshirani 1993, section 9.4.

Source: Hoffmann et al. 2022, Approach 2, arXiv:2203.15556.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from scalelab.errors import FitError
from scalelab.laws.base import Law, LawFit, Optimum, Replicates
from scalelab.laws.description import Fact, FitContext
from scalelab.laws.isoflop.outliers import Consensus
from scalelab.laws.isoflop.scatter import MinimaScatter
from scalelab.laws.isoflop.slices import Slice, spent_at
from scalelab.laws.isoflop.trend import Trends
from scalelab.laws.isoflop.valley import SHAPES, vertices
from scalelab.laws.observations import Array, Observations, alike
from scalelab.units import decimals, interval_text, sci

REPORTED = 0.01
"""Level below which scatter between budgets is a reason to doubt the forecast."""


@dataclass(frozen=True)
class IsoFlopLaw(Law):
    """The minimum of every slice, then power laws through the minima."""

    formula = "N* = N0 (C/C0)^a, D* = D0 (C/C0)^b, L* = L0 (C/C0)^-l or E + K (C/C0)^-gamma"
    source = "Hoffmann et al. 2022, Approach 2, arXiv:2203.15556"
    least_budgets = 4  # with three, L* has no floor to show
    has_window = True  # the parabolas'

    window: float = 4.0
    """Sizes within this factor of the lowest run shape the parabola or cubic (valley.py)."""
    shape: str = "parabola"
    """One of valley.SHAPES."""

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise FitError(
                f"unknown shape of a valley {self.shape!r}",
                where="the settings of the isoflop law",
                fix=f"use one of: {', '.join(SHAPES)}",
            )
        if not 1 < self.window < np.inf:
            raise FitError(
                f"a window of {self.window} holds no sizes",
                where="the settings of the isoflop law",
                fix="name a factor above 1; the default is 4",
            )

    def variants(self) -> Mapping[str, "IsoFlopLaw"]:
        # Not Akima's curve: it follows the noise of single runs, and its exponent scatters up to
        # nine times as far as the parabola's. It stands beside every minimum as a cross-check.
        found = {shape: replace(self, shape=shape) for shape in ("parabola", "cubic")}
        if self.shape != "akima":  # which has no window
            found |= {f"window {x:g}x": replace(self, window=x) for x in (2.5, 4.0, 8.0)}
        return {name: law for name, law in found.items() if law != self}

    def fit(self, runs: Observations) -> "IsoFlopFit":
        if not runs.budgets.size:
            raise FitError(
                "no run says which isoFLOP budget it was planned for",
                where="flops_planned, empty in every row",
                fix="add the column flops_planned (equal within a slice) or use --law chinchilla",
            )
        slices = self._slices(runs)
        kept = [s for s in slices if s.refused is None]
        if len(kept) < 2:
            raise FitError(
                f"{len(kept)} of {len(slices)} budgets have an interior minimum; a trend needs 2",
                where="; ".join(f"{sci(s.flops)} FLOPs: {s.refused or 'interior'}" for s in slices),
                fix="add sizes beyond the end where the loss is lowest, or add budgets",
                evidence=slices,
            )
        return IsoFlopFit(self, runs, slices)

    def _slices(self, runs: Observations) -> tuple[Slice, ...]:
        """All slices; spread and residual of the losses are pooled over them."""
        each = [runs.take(runs.flops_planned == C) for C in runs.budgets]
        spreads = [a.spread for a in (Consensus.of(part.N, part.L) for part in each) if a is not None]
        spread = float(np.median(spreads)) if spreads else 0.0
        found = [
            Slice.of(part, float(C), self.window, self.shape, spread)
            for C, part in zip(runs.budgets, each, strict=True)
        ]
        known = [(sigma, spare) for sigma, spare in (s.noise for s in found) if spare]
        spare = sum(k for _, k in known)
        square = sum(sigma**2 * k for sigma, k in known)
        noise = (float(np.sqrt(square / spare)) if spare else float("nan")), spare
        return tuple(replace(s, noise=noise) for s in found)


@dataclass(frozen=True, eq=False)
class IsoFlopFit(LawFit):
    """The minima and their trends."""

    law: IsoFlopLaw
    runs: Observations
    slices: tuple[Slice, ...]

    @cached_property
    def minima(self) -> tuple[Slice, ...]:  # asked for again and again
        return super().minima

    @cached_property
    def trends(self) -> "Trends":
        """The power laws through the minima, as one replicate."""
        columns = ("spent", "N", "D", "L")
        return Trends.of(*(np.array([[getattr(s, k) for s in self.minima]]) for k in columns))

    @property
    def form(self) -> str:
        """Form of L*(C) that this fit uses: "floor" or "power"."""
        return self.trends.form

    @property
    def params(self) -> Mapping[str, float]:
        """Constants of the trends; E, K, gamma from three minima on."""
        return {k: float(v[0]) for k, v in self.trends.values.items()}

    @property
    def exponents(self) -> Mapping[str, float]:
        """The exponents of N* and D*, each fitted to its own minima."""
        return {"a": self.params["a"], "b": self.params["b"]}

    @property
    def broken(self) -> tuple[str, ...]:
        if len(self.minima) > 2:
            return ()
        return ("two minima: a power law fits them exactly, so its error cannot be seen",)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the number and the course of the minima leave open."""
        found = [*self.broken, *self._refused_budgets()]
        m, floor = len(self.minima), self.trends.floor
        if m == 3:
            found.append("three minima: the form with a floor fits L* exactly, shown for contrast")
        if m >= 4 and not floor.is_floor[0]:
            found.append(
                f"the minima show no floor (best E = {floor.E[0]:.3g} nats per token, "
                f"gamma = {floor.gamma[0]:.3g}): the pure power law forecasts L*, "
                "the bent form stands for contrast"
            )
        return (*found, *_by_kind({s.flops: s.warnings for s in self.slices}))

    @property
    def evidence_warnings(self) -> tuple[str, ...]:
        """Refused budgets, and what the slices say of their runs; nothing of the curves through them."""
        return (
            *self.broken,
            *self._refused_budgets(),
            *_by_kind({s.flops: s.evidence_warnings for s in self.slices}),
        )

    def _refused_budgets(self) -> list[str]:
        lost = len(self.slices) - len(self.minima)
        return [f"{lost} of {len(self.slices)} budgets refused: no interior minimum"] if lost else []

    @property
    def evidence_end(self) -> float:
        return max(s.spent for s in self.minima)

    def optimum(self, C: Array | float) -> Optimum:
        return self.trends.optimum(np.asarray(C, float))

    def frontiers(self, C: float) -> dict[str, float]:
        floor = self.trends.floor
        more = {} if floor is None else {"floor": float(floor(C)[0])}
        return {"power": float(self.trends.L(C)[0]), **more}

    def refuted(self, form: str) -> str | None:
        """Where the minima show a floor, the pure power law is the refuted special case."""
        if form == "power" and self.form == "floor":
            return "the minima show a floor"
        if form == "floor" and not self.trends.floor.is_floor[0]:
            return "the minima show no floor"
        return None

    @property
    def floor(self) -> float | None:
        return self.params.get("E") if self.form == "floor" else None

    @property
    def noise(self) -> tuple[float, int]:
        """Pooled residual sd of a run of weight 1, as a share, and its degrees of freedom."""
        return self.minima[0].noise

    @cached_property
    def _drawn(self) -> dict[tuple[int, int], tuple[Array, Array, Array, Array]]:
        return {}

    @cached_property
    def _scatter(self) -> dict[tuple[int, int], MinimaScatter]:
        return {}

    def drawn(self, count: int, seed: int) -> tuple[Array, Array, Array, Array] | None:
        sigma, spare = self.noise
        if not spare:
            return None
        if (count, seed) not in self._drawn:
            rng = np.random.default_rng(seed)
            sigmas = sigma * np.sqrt(spare / rng.chisquare(spare, size=(count, 1)))
            trunk = _trunks(self.runs)
            luck = sigmas * rng.standard_normal((count, trunk.max() + 1))
            found = []
            for s in self.minima:
                mine = trunk[np.isin(self.runs.run, s.runs.run)]
                losses = s.fitted + s.L * luck[:, mine] / np.sqrt(s.runs.weight)
                best = vertices(s.grid, losses, self.law.window, self.law.shape)
                spent, D = spent_at(s.runs, s.grid, s.flops, best.N)
                found.append((spent, best.N, D, best.L))
            C, N, D, L = (np.stack(column, axis=1) for column in zip(*found, strict=True))
            at, best = (np.array([getattr(s, k) for s in self.minima]) for k in ("spent", "L"))
            scatter = MinimaScatter.of(self.trends, at, best, (N, L), spare)
            self._drawn[count, seed] = scatter.move((C, N, D, L), rng)
            self._scatter[count, seed] = scatter
        return self._drawn[count, seed]

    def replicates(self, count: int, seed: int) -> Replicates | None:
        drawn = self.drawn(count, seed)
        if drawn is None:
            return None
        C, N, D, L = drawn
        least = 3 if self.form == "floor" else 2
        good = np.sum(np.isfinite(N), axis=1) >= least
        C0 = self.trends.N.C0
        trends = Trends.of(C[good], N[good], D[good], L[good], self.form, C0)
        residual = "parabolas" if self.law.shape == "parabola" else "cubics"
        return Replicates(
            asked=count,
            failed=int(np.sum(~good)),
            unit=f"residual of the {residual}, pooled over budgets",
            values=trends.values,
            optimum=lambda C: trends.optimum(np.full(int(good.sum()), float(C))),
            notes=self._notes(N, self._scatter[count, seed]),
        )

    def _notes(self, N: Array, scatter: MinimaScatter) -> tuple[str, ...]:
        """Minima that noise can erase, and minima that scatter more than noise explains."""
        notes = []
        for s, lost in zip(self.minima, np.mean(~np.isfinite(N), axis=0), strict=True):
            if lost > 0.05:
                notes.append(f"budget {sci(s.flops)}: {lost:.0%} of replicates lose the minimum")
        for name, part in (("N*", scatter.N), ("L*", scatter.L)):
            if part.likely < REPORTED:
                notes.append(
                    f"{name} scatters {np.sqrt(part.ratio):.1f}x more around its trend than noise of single "
                    "runs explains: budgets share luck, or the trend does not hold; the interval is widened "
                    "by it"
                )
        return tuple(notes)

    def facts(self, context: FitContext) -> tuple[Fact, ...]:
        found, ends = self.params, context.intervals
        facts = [
            Fact("N* ~ C^a", f"a = {found['a']:.3f} {interval_text(ends.get('a'), decimals(3))}"),
            Fact("D* ~ C^b", f"b = {found['b']:.3f} {interval_text(ends.get('b'), decimals(3))}"),
            Fact("Chinchilla", "a = 0.50, b = 0.50", "literature"),
            Fact("L* ~ C^-l", f"l = {found['l']:.4f} {interval_text(ends.get('l'), decimals(4))}"),
        ]
        if "E" in found:
            exact = " (three points fit it exactly)" if len(self.minima) == 3 else ""
            facts.append(
                Fact(
                    "L* with a floor",
                    f"{found['E']:.3f} + {found['K']:.3f} (C/{sci(found['C0'])})^-{found['gamma']:.3f} "
                    f"nats per token{exact}",
                )
            )
            facts.append(Fact("form of the forecast", "floor" if self.form == "floor" else "power law"))
        return tuple(facts)

    def to_json(self) -> dict[str, Any]:
        sigma, spare = self.noise
        return {
            "params": dict(self.params),
            "exponents": dict(self.exponents),
            "minima": [s.to_json() for s in self.slices],
            "loss_form": self.form,
            "shape": self.law.shape,
            "window": self.law.window,
            "residual_rel_sd": sigma if spare else None,
            "residual_dof": spare,
            "warnings": list(self.warnings),
        }


def _by_kind(warnings: Mapping[float, tuple[str, ...]]) -> list[str]:
    """Each warning once, with the budgets that have it. `warnings` are by budget, FLOPs."""
    budgets: dict[str, list[str]] = {}
    for flops, of_slice in warnings.items():
        for warning in of_slice:
            budgets.setdefault(warning, []).append(sci(flops))
    return [f"{warning} (budgets {', '.join(at)})" for warning, at in budgets.items()]


def _trunks(runs: Observations) -> Array:
    """Number of the draw of luck of each run, shape (n,): branches of one trunk share one.

    A trunk has one size and one branch a budget. Runs of one group that differ in size, or repeat a budget,
    differ around their parabola and so did not share all their luck; what they shared shows between
    budgets (scatter.py).
    """
    own = alike(runs.group, runs.N, runs.flops_planned)
    order = np.argsort(own, kind="stable")
    starts = np.flatnonzero(np.diff(own[order], prepend=-1))
    repeat = np.empty(len(runs), int)
    repeat[order] = np.arange(len(runs)) - np.repeat(starts, np.diff(np.append(starts, len(runs))))
    return alike(runs.group, runs.N, repeat)
