"""Loss over N, D and learning rate: tuned runs make a surface, and around each is a valley.

    L(N, D, lr) = (E + A / N^alpha + B / D^beta) exp(kappa ln^2(lr / lr*)),  lr*(N, D) = c N^-p D^q

L  validation loss, nats per token; N parameters; D training tokens; lr peak learning rate
kappa  what a rate beside the best one costs: a factor k costs exp(kappa ln^2 k) - 1 of the loss

Every N and D that was trained at three rates or more is one valley, a parabola of ln L in ln lr
with one kappa for all. Its place and depth are linear least squares in closed form; lr* is a plane
through the places over ln N and ln D, and E, A, B, alpha, beta are the Chinchilla law through the
depths. An optimum is one of tuned runs.

Source: the rule for lr* and its constants, Li et al. 2025 (Step Law), arXiv:2503.04715; the
surface, Hoffmann et al. 2022, arXiv:2203.15556.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from scalelab.errors import FitError
from scalelab.laws.base import Law, LawFigure, LawFit, Optimum, Replicates
from scalelab.laws.columns import Column
from scalelab.laws.description import Fact, FitContext
from scalelab.laws.forms.chinchilla import Chinchilla
from scalelab.laws.formula import FormulaFit
from scalelab.laws.observations import Array, Observations, alike
from scalelab.laws.uncertainty.resampling_units import resampling_units
from scalelab.report.plots.plot_style import canvas, styled
from scalelab.units import si


@dataclass(frozen=True)
class LearningRate(Law):
    """A Chinchilla surface of tuned runs, and a rule for the rate that tunes them."""

    formula = "L = (E + A / N^alpha + B / D^beta) exp(kappa ln^2(lr / lr*)), lr* = c N^-p D^q"
    source = "Li et al. 2025, arXiv:2503.04715; Hoffmann et al. 2022, arXiv:2203.15556"
    columns = (Column("learning_rate", "lr", "per step", "peak learning rate"),)
    uses = ("N", "D", "lr")
    names = ("E", "A", "B", "alpha", "beta", "kappa", "c", "p", "q")
    published = {**Chinchilla.published, "kappa": 0.01, "c": 1.79, "p": 0.713, "q": 0.307}
    """kappa is assumed: twice the best rate costs half a percent of the loss."""

    def loss(self, params: Mapping[str, Any], **inputs: Array) -> Array:
        N, D, lr = (inputs[symbol] for symbol in self.uses)
        away = np.log(lr) - np.log(best_rate(params, N, D))
        return Chinchilla().loss(params, N=N, D=D) * np.exp(params["kappa"] * away**2)

    def fit(self, runs: Observations) -> "LearningRateFit":
        valleys = Valleys.of(runs, np.log(self.inputs(runs)["lr"]))
        surface = Chinchilla().fit(valleys.tuned)
        return LearningRateFit(self, runs, valleys, surface)


def best_rate(params: Mapping[str, Any], N: Array | float, D: Array | float) -> Array:
    """lr* = c N^-p D^q; broadcasts."""
    return params["c"] * np.asarray(N, float) ** -params["p"] * np.asarray(D, float) ** params["q"]


@dataclass(frozen=True, eq=False)
class Valleys:
    """ln L = depth + kappa (ln lr - place)^2 for each of m pairs of N and D."""

    tuned: Observations
    """The lowest point of each valley as a run, shape (m,)."""
    place: Array
    """ln lr* of each, shape (m,)."""
    moments: tuple[Array, Array]
    """Of each, the sums whose totals have the ratio kappa; shape (m,)."""
    lost: int
    """Pairs of N and D that are no valley: under three rates, or the best one at an edge."""

    @classmethod
    def of(cls, runs: Observations, x: Array) -> "Valleys":
        """The valleys of runs with ln lr x.

        Raises:
            FitError: No three pairs have a valley, or loss does not rise to both sides.
        """
        cell = alike(runs.N, runs.D)
        cells = [np.flatnonzero(cell == k) for k in range(cell.max() + 1)]
        known = [rows for rows in cells if len(np.unique(x[rows])) >= 3]
        if len(known) < 3:
            raise FitError(
                f"{len(known)} pairs of N and D were trained at three learning rates or more, and "
                "the LearningRate law needs three such pairs",
                where=f"learning_rate in {len(runs)} runs of {len(cells)} pairs of N and D",
                fix="train more pairs of N and D at three rates or more, on both sides of the best",
            )
        above, below = np.array([_curvature(runs, x, rows) for rows in known]).T
        kappa = above.sum() / below.sum()
        if not kappa > 0:
            raise FitError(
                f"loss does not rise to both sides of a learning rate: kappa = {kappa:.3g}",
                where=f"learning_rate in {len(known)} pairs of N and D",
                fix="add rates further from the best one",
            )
        ends = [_vertex(runs, x, rows, kappa) for rows in known]
        inside = [x[rows].min() < place < x[rows].max() for rows, (place, _) in zip(known, ends, strict=True)]
        kept = [rows for rows, good in zip(known, inside, strict=True) if good]
        place, depth = np.array([end for end, good in zip(ends, inside, strict=True) if good]).T
        first = runs.take(np.array([rows[0] for rows in kept]))
        weight = np.array([runs.weight[rows].sum() for rows in kept])
        named = [f"N={N:.3g}, D={D:.3g}" for N, D in zip(first.N, first.D, strict=True)]
        tuned = replace(
            first,
            run=np.array(named),
            group=np.array(named),
            L=np.exp(depth),
            C=np.array([np.average(runs.C[rows], weights=runs.weight[rows]) for rows in kept]),
            weight=weight / weight.mean(),
        )
        moments = above[np.array(inside)], below[np.array(inside)]
        return cls(tuned, place, moments, len(cells) - len(kept))

    def rules(self, weights: Array) -> dict[str, Array]:
        """Kappa and the plane of lr* under weights of the valleys (r, m), each (r,)."""
        above, below = self.moments
        X = np.stack([np.ones(len(self.place)), np.log(self.tuned.N), np.log(self.tuned.D)], axis=1)
        X[:, 1:] -= (middle := X[:, 1:].mean(axis=0))
        each = weights * self.tuned.weight
        gram = np.einsum("rm,mi,mj->rij", each, X, X)
        right = np.einsum("rm,mi,m->ri", each, X, self.place)
        level, by_N, by_D = np.einsum("rij,rj->ir", np.linalg.pinv(gram, hermitian=True), right)
        c = np.exp(level - by_N * middle[0] - by_D * middle[1])
        kappa = (weights @ above) / (weights @ below)
        return {"kappa": kappa, "c": c, "p": -by_N, "q": by_D}


def _curvature(runs: Observations, x: Array, rows: Array) -> tuple[float, float]:
    """Sums of one valley: what ln lr squared tells of ln L beyond a line, and of itself."""
    w, x = runs.weight[rows], x[rows] - x[rows].mean()
    line = np.stack([np.ones_like(x), x], axis=1) * np.sqrt(w)[:, None]
    Q, _ = np.linalg.qr(line)
    square, loss = (np.sqrt(w) * v for v in (x**2, np.log(runs.L[rows])))
    square, loss = (v - Q @ (Q.T @ v) for v in (square, loss))
    return float(square @ loss), float(square @ square)


def _vertex(runs: Observations, x: Array, rows: Array, kappa: float) -> tuple[float, float]:
    """Place and depth of one valley of known curvature."""
    w, middle = np.sqrt(runs.weight[rows]), x[rows].mean()
    x = x[rows] - middle
    line = np.stack([np.ones_like(x), x], axis=1) * w[:, None]
    (level, slope), *_ = np.linalg.lstsq(line, w * (np.log(runs.L[rows]) - kappa * x**2))
    return middle - slope / (2 * kappa), level - slope**2 / (4 * kappa)


@dataclass(frozen=True, eq=False)
class LearningRateFit(LawFit):
    """The valleys, and the surface through their lowest points."""

    law: LearningRate
    runs: Observations
    valleys: Valleys
    surface: FormulaFit

    is_surface = True

    @cached_property
    def params(self) -> dict[str, float]:
        rules = self.valleys.rules(np.ones((1, len(self.valleys.place))))
        return {**self.surface.params, **{name: float(value[0]) for name, value in rules.items()}}

    @property
    def exponents(self) -> dict[str, float]:
        return self.surface.exponents

    @property
    def cost(self) -> Any:
        return self.surface.cost

    @property
    def correlated(self) -> tuple[str, ...]:
        return self.surface.correlated

    @property
    def broken(self) -> tuple[str, ...]:
        return self.surface.broken

    @property
    def warnings(self) -> tuple[str, ...]:
        lost = self.valleys.lost
        more = (f"{lost} pairs of N and D have no valley in the learning rate",) if lost else ()
        return (*self.surface.warnings, *more)

    def predict(self, **inputs: Array | float) -> Array:
        return self.law.loss(self.params, **{k: np.asarray(v, float) for k, v in inputs.items()})

    def expected(self, runs: Observations) -> Array:
        return self.predict(**self.law.inputs(runs))

    def loss_at(self, N: Array | float, D: Array | float, params: Mapping[str, Any] | None = None) -> Array:
        return self.surface.loss_at(N, D, params)

    def optimum(self, C: Array | float) -> Optimum:
        return self.surface.optimum(C)

    def replicates(self, count: int, seed: int) -> Replicates:
        """Valleys drawn with replacement, whole: rates of one pair stay together."""
        drawn = self.surface.replicates(count, seed)
        rows = len(drawn.values["E"])  # one that failed for the surface is left out
        rules = self.valleys.rules(resampling_units(self.surface.runs).counts(seed)(0, rows))
        return replace(drawn, values={**drawn.values, **rules}, unit="pair of N and D")

    def profiles(self, target: float, level: float) -> dict[str, list[float | None]] | None:
        return self.surface.profiles(target, level)

    def facts(self, context: FitContext) -> tuple[Fact, ...]:
        tuned, at = self.valleys.tuned, int(np.argmax(self.valleys.tuned.C))
        rate = best_rate(self.params, tuned.N[at], tuned.D[at])
        twice = np.expm1(self.params["kappa"] * np.log(2) ** 2)
        return (
            Fact(f"lr* for {si(tuned.N[at])} parameters on {si(tuned.D[at])} tokens", f"{rate:.4g}"),
            Fact("loss of twice or half of it", f"{twice:+.2%}"),
        )

    def pictures(self) -> tuple[LawFigure, ...]:
        inputs = self.law.inputs(self.runs)
        best = best_rate(self.params, inputs["N"], inputs["D"])
        tuned = self.surface.loss_at(inputs["N"], inputs["D"])
        data = (inputs["lr"] / best, self.runs.L / tuned - 1, self.params["kappa"])
        caption = "What a learning rate beside the best one costs: runs, and the valley [fitted]."
        return (LawFigure("rate_valley", data, caption),)


@styled
def draw_rate_valley(data: tuple[Array, Array, float]) -> Figure:
    """Share of the loss that a rate costs, over its ratio to the best one."""
    ratio, wasted, kappa = data
    figure, ((axes,),) = canvas((5.8, 4.0))
    axes.set_xscale("log")
    along = np.geomspace(ratio.min(), ratio.max(), 200)
    axes.plot(along, 100 * np.expm1(kappa * np.log(along) ** 2), color="black", linewidth=1)
    axes.plot(ratio, 100 * wasted, ".", color="grey", markersize=4)
    axes.set_xlabel("learning rate / best learning rate")
    axes.set_ylabel("loss above that of the best rate, %")
    return figure
