"""Loss over N, D, learning rate and batch: the best settings of each cell make a surface over N and D.

    L = (E + A / N^alpha + B / D^beta) exp((k_lr x^2 + k_batch y^2) / 2 + k_both x y)
    x = ln(lr / lr*),  y = ln(batch / batch*)
    lr* = c_lr N^lr_N D^lr_D,   batch* = c_batch N^batch_N D^batch_D

L  validation loss, nats per token
N  parameters; D  training tokens, each counted once
lr  peak learning rate, per step; batch  tokens per step
k  what settings beside the best cost: lr off by a factor f costs exp(k_lr ln^2 f / 2) - 1 of the loss

A cell is one N and D. Every cell that was trained at enough settings around its best ones gives the
lowest point of its surface (laws/response.py) with standard errors. E to beta are the Chinchilla law
through the lowest losses, lr* and batch* are planes of ln x* over ln N and ln D, and the k are the
means of the cells' curvatures. An optimum is one of tuned runs.

Source: the rules, Li et al. 2025 (Step Law), arXiv:2503.04715; the surface over N and D, Hoffmann et
al. 2022, arXiv:2203.15556. On the released runs this law finds lr* ~ N^-.69 D^.29 and batch* ~ N^-.12
D^.57, where the source has N^-.713 D^.307 and D^.571.

Not here: settings beyond these two; tables in which each cell has one recipe, which need no such law.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from scalelab.errors import FitError
from scalelab.laws.base import Convergence, Law, LawFigure, LawFit, Optimum, Replicates
from scalelab.laws.columns import LEARNING_RATE, Column
from scalelab.laws.description import Fact, FitContext
from scalelab.laws.forms.chinchilla import Chinchilla
from scalelab.laws.formula import FormulaFit
from scalelab.laws.observations import Array, Observations
from scalelab.laws.response import ResponseCells, ResponseMinimum
from scalelab.units import si

SETTINGS = ("lr", "batch")
SURFACE = ("E", "A", "B", "alpha", "beta")
RULES = ("c_lr", "lr_N", "lr_D", "c_batch", "batch_N", "batch_D")
COSTS = ("k_lr", "k_batch", "k_both")
DRIFT = 2.0  # factor by which settings tried may drift from the best ones over the table
SURE = 3.0  # standard errors of the drift
BATCH = Column("batch_tokens", "batch", "tokens per step", "batch")


@dataclass(frozen=True)
class Response(Law):
    """A Chinchilla surface of tuned cells, and rules for the learning rate and batch that tune them."""

    formula = (
        "L = (E + A / N^alpha + B / D^beta) exp((k_lr x^2 + k_batch y^2) / 2 + k_both x y), "
        "x = ln(lr / (c_lr N^lr_N D^lr_D)), y = ln(batch / (c_batch N^batch_N D^batch_D))"
    )
    source = "Li et al. 2025, arXiv:2503.04715; Hoffmann et al. 2022, arXiv:2203.15556"
    columns = (LEARNING_RATE, BATCH)
    signed = frozenset(("lr_N", "lr_D", "batch_N", "batch_D", "k_both"))
    uses = ("N", "D", *SETTINGS)
    names = (*SURFACE, *RULES, *COSTS)
    published = {
        **Chinchilla.published,
        "c_lr": 1.79,
        "lr_N": -0.713,
        "lr_D": 0.307,
        "c_batch": 0.58,
        "batch_N": 0.0,
        "batch_D": 0.571,
        "k_lr": 0.017,
        "k_batch": 0.0134,
        "k_both": -0.0056,
    }
    """Rules of the source; the k are medians over its released runs, fitted here."""

    def loss(self, params: Mapping[str, Any], **inputs: Array) -> Array:
        N, D, lr, batch = (np.asarray(inputs[symbol], float) for symbol in self.uses)
        x, y = np.log(lr) - ln_best(params, "lr", N, D), np.log(batch) - ln_best(params, "batch", N, D)
        k_lr, k_batch, k_both = (params[k] for k in COSTS)
        return Chinchilla().loss(params, N=N, D=D) * np.exp(
            (k_lr * x**2 + k_batch * y**2) / 2 + k_both * x * y
        )

    def fit(self, runs: Observations) -> "ResponseFit":
        inputs = self.inputs(runs)
        x = np.log(np.stack([inputs[symbol] for symbol in SETTINGS], axis=1))
        found = ResponseCells.of(runs, x, SETTINGS)
        tuned = TunedCells.of(runs, x, found)
        return ResponseFit(self, runs, found, tuned, Chinchilla().fit(tuned.runs))


def ln_best(params: Mapping[str, Any], setting: str, N: Array | float, D: Array | float) -> Array:
    """Return the logarithm of lr* or batch*; broadcasts.

    Args:
        params: Constants of the law.
        setting: lr or batch.
        N: Parameters.
        D: Tokens.
    """
    c, by_N, by_D = (params[name] for name in (f"c_{setting}", f"{setting}_N", f"{setting}_D"))
    return np.log(c) + by_N * np.log(np.asarray(N, float)) + by_D * np.log(np.asarray(D, float))


@dataclass(frozen=True, eq=False)
class TunedCells:
    """The cells with a lowest point, m of them, as runs at their best settings."""

    runs: Observations
    place: Array
    """ln lr* and ln batch* of each, shape (m, 2)."""
    place_error: Array
    """Their standard errors, shape (m, 2)."""
    depth_error: Array
    """Standard error of each lowest ln L, shape (m,)."""
    curvature: Array
    """k_lr, k_batch and k_both of each, shape (m, 3)."""
    tried: Array
    """Mean of ln lr and ln batch over the settings tried, shape (m, 2)."""

    @classmethod
    def of(cls, runs: Observations, x: Array, found: ResponseCells) -> "TunedCells":
        """The tuned cells.

        Raises:
            FitError: Fewer than three cells have a lowest point.
        """
        kept = [c for c, minimum in enumerate(found.minima) if isinstance(minimum, ResponseMinimum)]
        if len(kept) < 3:
            reasons = [m for m in found.minima if isinstance(m, str)]
            raise FitError(
                f"{len(kept)} of {len(found.minima)} pairs of N and D have a lowest loss over lr and batch, and "
                f"the Response law needs three",
                where=f"learning_rate and batch_tokens in {len(runs)} runs; the first without: {reasons[0]}",
                fix="train more pairs of N and D at three or more learning rates and batches on both sides of the best",
            )
        rows = [np.flatnonzero(found.cell == c) for c in kept]
        minima = [found.minima[c] for c in kept]
        first = runs.take(np.array([r[0] for r in rows]))
        weight = np.array([runs.weight[r].sum() for r in rows])
        named = np.array([f"N={N:.4g}, D={D:.4g}" for N, D in zip(first.N, first.D, strict=True)])
        tuned = replace(
            first,
            run=named if len(np.unique(named)) == len(named) else first.run,
            group=np.arange(len(kept)),
            L=np.exp([m.depth for m in minima]),
            C=np.array([np.average(runs.C[r], weights=runs.weight[r]) for r in rows]),
            weight=np.ones_like(weight),
        )
        H = np.array([m.curvature for m in minima])
        return cls(
            tuned,
            np.array([m.place for m in minima]),
            np.array([m.place_error for m in minima]),
            np.array([m.depth_error for m in minima]),
            np.stack([H[:, 0, 0], H[:, 1, 1], H[:, 0, 1]], axis=1),
            np.array([np.unique(x[r], axis=0).mean(axis=0) for r in rows]),
        )

    def rules(self, weights: Array) -> dict[str, Array]:
        """Constants of both rules and the costs under weights of the cells (r, m), each (r,)."""
        found = {}
        for j, setting in enumerate(SETTINGS):
            level, by_N, by_D = _plane(self.runs, self.place[:, j], weights)[0].T
            found |= {f"c_{setting}": np.exp(level), f"{setting}_N": by_N, f"{setting}_D": by_D}
        costs = weights @ self.curvature / weights.sum(axis=1, keepdims=True)
        return found | dict(zip(COSTS, costs.T, strict=True))

    def drift(self) -> tuple[str, ...]:
        """Settings whose values tried leave the best ones as N or D grows, one sentence each."""
        said = []
        for j, setting in enumerate(SETTINGS):
            beside = self.tried[:, j] - self.place[:, j]
            plane, errors = _plane(self.runs, beside, np.ones((1, len(beside))))
            for k, symbol in ((1, "N"), (2, "D")):
                values = getattr(self.runs, symbol)
                span = np.log(values.max() / values.min())
                moved = plane[0, k] * span
                if abs(moved) > np.log(DRIFT) and abs(plane[0, k]) > SURE * errors[k]:
                    way = "rises" if moved > 0 else "falls"
                    said.append(
                        f"as {symbol} grows from {si(values.min())} to {si(values.max())}, the {setting} tried {way} "
                        f"{np.exp(abs(moved)):.1f}x relative to the best one, so small and large cells are searched on "
                        "different sides of their best"
                    )
        return tuple(said)


def _plane(runs: Observations, values: Array, weights: Array) -> tuple[Array, Array]:
    """Level and slopes by ln N and ln D under weights (r, m), (r, 3), and the slopes' standard errors (3,)."""
    X = np.stack([np.ones(len(values)), np.log(runs.N), np.log(runs.D)], axis=1)
    X[:, 1:] -= (middle := X[:, 1:].mean(axis=0))
    gram = np.einsum("rm,mi,mj->rij", weights, X, X)
    inverse = np.linalg.pinv(gram, hermitian=True)
    found = np.einsum("rij,rm,mj,m->ri", inverse, weights, X, values, optimize=True)
    spare = max(len(values) - 3, 1)
    sd = np.sqrt(np.sum((values - X @ found[0]) ** 2) / spare)
    found[:, 0] -= found[:, 1:] @ middle
    return found, sd * np.sqrt(np.diag(inverse[0]))


@dataclass(frozen=True, eq=False)
class ResponseFit(LawFit):
    """The cells, and the surface and rules through their lowest points."""

    law: Response
    runs: Observations
    cells: ResponseCells
    tuned: TunedCells
    surface: FormulaFit

    is_surface = True

    @cached_property
    def params(self) -> dict[str, float]:
        rules = self.tuned.rules(np.ones((1, len(self.tuned.runs))))
        return {**self.surface.params, **{name: float(value[0]) for name, value in rules.items()}}

    @property
    def exponents(self) -> dict[str, float]:
        return self.surface.exponents

    @property
    def evidence_end(self) -> float:
        return float(self.tuned.runs.C.max())

    @property
    def cost(self) -> Any:
        return self.surface.cost

    @property
    def correlated(self) -> tuple[str, ...]:
        return self.surface.correlated

    @property
    def convergence(self) -> Convergence:
        return self.surface.convergence

    @property
    def objective_text(self) -> str | None:
        return self.surface.objective_text

    @property
    def broken(self) -> tuple[str, ...]:
        return self.surface.broken

    @property
    def untuned(self) -> tuple[str, ...]:
        """Why cells have no lowest point, one for each such cell."""
        return tuple(m for m in self.cells.minima if isinstance(m, str))

    @property
    def warnings(self) -> tuple[str, ...]:
        found, lost = [*self.surface.warnings], self.untuned
        at_end = sum("at an end" in reason for reason in lost)
        if at_end:
            found.append(
                f"{at_end} of {len(self.cells.minima)} pairs of N and D are best at an end of the settings tried, and "
                "are left out: better settings may lie beyond"
            )
        if len(lost) > at_end:
            found.append(
                f"{len(lost) - at_end} pairs of N and D have too few settings for a surface, or no lowest point"
            )
        return (*found, *self.tuned.drift())

    @property
    def not_redrawn(self) -> str | None:
        return self.surface.not_redrawn

    def predict(self, **inputs: Array | float) -> Array:
        return self.law.loss(self.params, **{k: np.asarray(v, float) for k, v in inputs.items()})

    def expected(self, runs: Observations) -> Array:
        return self.predict(**self.law.inputs(runs))

    def loss_at(self, N: Array | float, D: Array | float, params: Mapping[str, Any] | None = None) -> Array:
        return self.surface.loss_at(N, D, params)

    def optimum(self, C: Array | float) -> Optimum | None:
        return self.surface.optimum(C)

    def replicates(self, count: int, seed: int) -> Replicates | None:
        """The cells drawn with replacement, whole: settings of one N and D stay together."""
        drawn = self.surface.replicates(count, seed)
        if drawn is None:
            return None
        # A replicate that failed for the surface is left out of the rules too.
        rules = self.tuned.rules(self.surface.units.counts(seed)(0, drawn.asked)[drawn.kept])
        return replace(drawn, values={**drawn.values, **rules}, unit="pair of N and D")

    def profiles(self, target: float, level: float) -> dict[str, list[float | None]] | None:
        return self.surface.profiles(target, level)

    def facts(self, context: FitContext) -> tuple[Fact, ...]:
        tuned = self.tuned
        at = int(np.argmax(tuned.runs.C))
        N, D = float(tuned.runs.N[at]), float(tuned.runs.D[at])
        best = {setting: float(np.exp(ln_best(self.params, setting, N, D))) for setting in SETTINGS}

        def power(name: str) -> str:
            ends = context.intervals.get(name)
            return f"{self.params[name]:.3f}" + (f" [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else "")

        rules = [
            Fact(f"{setting}* ~ N^p D^q", f"p {power(f'{setting}_N')}, q {power(f'{setting}_D')}")
            for setting in SETTINGS
        ]
        gap = np.array([np.log(self.runs.L[self.cells.cell == c].min()) for c in self._kept]) - np.log(
            tuned.runs.L
        )
        return (
            Fact(
                "pairs of N and D with a lowest loss",
                f"{len(tuned.runs)} of {len(self.cells.minima)}",
                "measured",
            ),
            *rules,
            Fact(
                f"lr*, batch* for {si(N)} parameters on {si(D)} tokens",
                f"{best['lr']:.3g}, {si(best['batch'])} tokens",
            ),
            Fact(
                "loss of twice or half of lr*", f"{np.expm1(self.params['k_lr'] * np.log(2) ** 2 / 2):+.2%}"
            ),
            Fact("standard error of a cell's lowest loss, median", f"{np.median(tuned.depth_error):.3%}"),
            Fact("best run less the lowest point, median", f"{np.median(np.expm1(gap)):+.3%}"),
        )

    @property
    def _kept(self) -> list[int]:
        return [c for c, m in enumerate(self.cells.minima) if isinstance(m, ResponseMinimum)]

    def pictures(self) -> tuple[LawFigure, ...]:
        tuned = self.tuned
        shape = {name: self.params[name] for name in COSTS}
        rows = np.isin(self.cells.cell, self._kept)
        where = np.searchsorted(self._kept, self.cells.cell[rows])
        inputs = self.law.inputs(self.runs)
        x = np.log(np.stack([inputs[s][rows] for s in SETTINGS], axis=1)) - tuned.place[where]
        above = np.log(self.runs.L[rows] / tuned.runs.L[where])
        rules = {s: np.exp(ln_best(self.params, s, tuned.runs.N, tuned.runs.D)) for s in SETTINGS}
        best = {s: np.exp(tuned.place[:, j]) for j, s in enumerate(SETTINGS)}
        errors = {s: tuned.place_error[:, j] for j, s in enumerate(SETTINGS)}
        return (
            LawFigure(
                "response_surface",
                {"away": x, "above": above, "shape": shape},
                "What a learning rate or batch beside the best of its N and D costs: runs of all cells with the other "
                "setting within a factor 1.5 of its best [measured], and the mean curvature [fitted], which describes "
                "the first 3% only: beyond, the loss is no parabola.",
            ),
            LawFigure(
                "response_rules",
                {"N": tuned.runs.N, "D": tuned.runs.D, "best": best, "errors": errors, "rules": rules},
                "Best learning rate and batch of each N and D with 90% intervals [fitted], and the rules through them.",
            ),
        )
