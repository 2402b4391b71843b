"""Laws that are one formula with a handful of constants, and the one way to fit them all.

    class Mine(Formula): names, uses, formula, source, published, loss(), bind(), ...
    Mine().fit(runs) -> FormulaFit

A law gives its formula twice: `loss`, as the paper prints it, and `bind`, the same bound to
runs in coordinates that can be searched, with its exact derivative. The conformance suite
(testing/laws.py) holds the one against the other. Everything else is common: refusal of
hopeless runs, the search from many starts, the solver's own health, bootstrap, optimum, JSON.

Not here: the search (solver.py), profile likelihood (profile_likelihood.py).
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from scalelab.errors import FitError
from scalelab.laws import levenberg, solver
from scalelab.laws.base import Bend, Convergence, Law, LawFit, Optimum, Replicates
from scalelab.laws.description import Influence
from scalelab.laws.observations import Array, Observations
from scalelab.laws.solver import Surface
from scalelab.laws.token_cost import TokenCost
from scalelab.laws.uncertainty.bend import bends
from scalelab.laws.uncertainty.influence import influence
from scalelab.laws.uncertainty.profile_likelihood import profiles
from scalelab.laws.uncertainty.refits import Refits, SurfaceRefits
from scalelab.laws.uncertainty.resampling_units import ResamplingUnits, resampling_units

HUBER_DELTA = 1e-3
"""Error of ln L beyond which the weight of a run stops growing. Source: Hoffmann et al. 2022, section 3.3."""

LARGE, SAMPLE = 8000, 4000  # runs; beyond the first, many starts see a sample of the second
BASINS, DISTINCT = 3, 1.02  # ends of the sample that are searched on, and how far they differ
LEAST_SPARE = 3  # runs beyond the constants; with two, 90% intervals of the error span a factor of 4
CHEAP_STEPS = 20  # from every start, before the exact search
RETRIES = 4  # starts of a replicate that did not come to rest from the fit itself
CORRELATED = 0.9  # beyond it two constants may not be read one by one


class Formula(Law):
    """A loss as a function of what a run was given. Subclasses are final frozen dataclasses."""

    steady: tuple[str, ...] = ()
    """Those of `uses` that may be the same in every run."""

    @abstractmethod
    def loss(self, params: Mapping[str, Any], **inputs: Array) -> Array:
        """The formula as the paper prints it, nats per token; broadcasts."""

    @abstractmethod
    def bind(self, runs: Observations) -> Surface:
        """The formula at these runs, ready for a search."""

    def exponents(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Powers a and b of N* and D* for C = 6 N D; empty unless the law allots compute."""
        return {}

    def optimum(self, params: Mapping[str, Any], C: Array, cost: TokenCost) -> Optimum | None:
        """The compute-optimal point of formulas with these constants; None unless the law allots compute."""
        return None

    @abstractmethod
    def caveats(self, runs: Observations, params: Mapping[str, float]) -> tuple[str, ...]:
        """What this law's own assumptions leave open on these runs."""

    def unstated(self, N: Array, D: Array) -> dict[str, Array] | None:
        """Its inputs beside N and D where nobody states them, by symbol, as a plan takes them.

        None for a law that has no loss of N and D alone.
        """
        return {} if {*self.uses} <= {"N", "D"} else None

    def fit(self, runs: Observations) -> "FormulaFit":
        self._refuse_hopeless(runs)
        cost = TokenCost.of(runs) if {"N", "D"} <= set(self.uses) else None
        surface = self.bind(runs)
        theta, found = self._searched(runs, surface)
        objective = float(solver.evaluate(surface, theta[None]).objective[0])
        return FormulaFit(self, runs, surface, theta, objective, found, cost)

    def _searched(self, runs: Observations, surface: Surface) -> tuple[Array, Convergence]:
        """The best end of all starts; on a large table these run on a sample, the best on all.

        What the sample says is only where the basins are: the end, its gradient and its bounds
        are those of all runs.
        """
        if len(runs) <= LARGE:
            return solver.judge(surface, solver.search(surface, _nearer(surface)))
        some = np.random.default_rng(0).choice(len(runs), SAMPLE, replace=False)
        part = self.bind(runs.take(np.sort(some)))
        ends = solver.search(part, _nearer(part))
        _, first = solver.judge(part, ends)
        order = np.argsort(ends.objective)
        apart = [order[0], *(k for k in order[1:] if ends.objective[k] > DISTINCT * ends.objective[order[0]])]
        constants = part.constants(ends.theta[apart[:BASINS]])
        starts = [
            surface.theta({name: float(value[k]) for name, value in constants.items()})
            for k in range(len(apart[:BASINS]))
        ]
        theta, last = solver.judge(surface, solver.search(surface, np.array(starts)))
        converged = last.gradient_norm <= solver.CONVERGED_GRADIENT and first.converged
        return theta, replace(last, starts=first.starts, agreement=first.agreement, converged=converged)

    def _refuse_hopeless(self, runs: Observations) -> None:
        name, free = type(self).__name__, len(self.names)
        if len(runs) < free + 1:
            raise FitError(
                f"{len(runs)} runs cannot pin down {free} constants",
                where=f"the runs handed to the {name} law",
                fix=f"finish at least {free + 1} runs; several budgets of 5 or more sizes are better",
            )
        logs = []
        for symbol, values in self.inputs(runs).items():
            low, high = values.min(), values.max()
            if high < 2 * low and symbol not in self.steady:
                raise FitError(
                    f"{symbol} spans only {high / low:.2f}x, too little to see a slope",
                    where=f"{symbol} from {low:.4g} to {high:.4g}",
                    fix=f"add runs that vary {symbol} at least 2x while the rest stays put",
                )
            logs.append(np.log(values))
        if len(logs) > 1 and len(np.unique(np.stack(logs[:2], axis=1), axis=0)) < 3:
            raise FitError(
                f"only two different runs of {self.uses[0]} and {self.uses[1]}",
                where="every row repeats one of two",
                fix="add runs that vary one of them while the other stays put",
            )
        if len(logs) > 1 and abs(np.corrcoef(logs[0], logs[1])[0, 1]) > 1 - 1e-6:
            first, second = self.uses[:2]
            raise FitError(
                f"{first} and {second} move together in every run, so their effects cannot be separated",
                where=f"{second} is one power of {first} in the whole table",
                fix=f"add runs that vary one of {first} and {second} while the other stays put",
            )


def _nearer(surface: Surface) -> Array:
    """Every start after a few cheap steps by first derivatives, which halves the time of the exact search."""
    starts = surface.starts()
    if not surface.robust:  # errors are not those of ln L
        return starts
    return levenberg.descend(surface, starts, delta=surface.delta, steps=CHEAP_STEPS).theta


@dataclass(frozen=True, eq=False)
class FormulaFit(LawFit):
    """A formula with the constants that fit its runs best."""

    law: Formula
    runs: Observations
    surface: Surface
    theta: Array
    scaled: float
    """The objective in units of delta, as solver.py has it."""
    solver: Convergence
    cost: TokenCost | None
    """FLOPs per token; None for a law that allots nothing."""

    @property
    def params(self) -> dict[str, float]:
        return {k: float(v[0]) for k, v in self.surface.constants(self.theta[None]).items()}

    @property
    def exponents(self) -> dict[str, float]:
        return {k: float(v) for k, v in self.law.exponents(self.params).items()}

    @property
    def objective(self) -> float:
        """As published: sum of Huber penalties of ln L, or of squares in nats per token."""
        return self.scaled * self.surface.delta**2 * (1 if self.surface.robust else 2)

    @property
    def miss(self) -> float:
        """Median absolute error over the runs, as a share of the loss."""
        return float(np.median(np.abs(self.expected(self.runs) / self.runs.L - 1)))

    @property
    def broken(self) -> tuple[str, ...]:
        found = []
        if not self.solver.converged:
            found.append(
                f"the search did not converge: gradient {self.solver.gradient_norm:.1e}, "
                f"{self.solver.agreement:.0%} of {self.solver.starts} starts agree"
            )
        if self.solver.at_bound:
            found.append(
                f"{', '.join(self.solver.at_bound)} stopped at the edge of the search: "
                "the runs do not determine it"
            )
        if self.spare < LEAST_SPARE:
            found.append(
                f"{len(self.runs)} runs leave {self.spare} beyond its {len(self.law.names)} constants (runs of "
                f"equal inputs count once), and {LEAST_SPARE} are needed to estimate the error"
            )
        return tuple(found)

    @property
    def spare(self) -> int:
        """Different points beyond the constants; repeats with other seeds show no error of the form."""
        inputs = np.stack(list(self.law.inputs(self.runs).values()), axis=1)
        return len(np.unique(inputs, axis=0)) - len(self.law.names)

    @property
    def determined_by(self) -> tuple[int, int]:
        p = len(self.law.names)
        return self.spare + p, p

    @property
    def warnings(self) -> tuple[str, ...]:
        found = [*self.broken]
        if self.solver.converged and self.solver.agreement < 0.5:
            found.append(f"only {self.solver.agreement:.0%} of starts agree on the optimum")
        if self.cost is not None and self.cost.miss > 0.05:
            found.append(f"FLOPs per token are described only within {self.cost.miss:.0%}")
        return (*found, *self.law.caveats(self.runs, self.params))

    @property
    def correlated(self) -> tuple[str, ...]:
        return tuple(self.params)

    @property
    def is_surface(self) -> bool:
        return bool(self.exponents) and self.law.unstated(np.ones(1), np.ones(1)) is not None

    def predict(self, **inputs: Array | float) -> Array:
        return self.law.loss(self.params, **{k: np.asarray(v, float) for k, v in inputs.items()})

    def loss_at(self, N: Array | float, D: Array | float, params: Mapping[str, Any] | None = None) -> Array:
        if not self.is_surface:
            return super().loss_at(N, D)
        N, D = np.asarray(N, float), np.asarray(D, float)
        inputs = {"N": N, "D": D, **self.law.unstated(N, D)}
        params = self.params if params is None else params
        with np.errstate(all="ignore"):
            return np.asarray(self.law.loss(params, **{k: inputs[k] for k in self.law.uses}))

    def expected(self, runs: Observations) -> Array:
        return self.predict(**self.law.inputs(runs))

    def optimum(self, C: Array | float) -> Optimum | None:
        if self.cost is None:
            return None
        return self.law.optimum(self.params, np.asarray(C, float), self.cost)

    @cached_property
    def units(self) -> ResamplingUnits:
        """Which runs are drawn again together."""
        return resampling_units(self.runs, np.log(self.expected(self.runs) / self.runs.L))

    @property
    def not_redrawn(self) -> str | None:
        return self.units.too_few

    def replicates(self, count: int, seed: int) -> Replicates | None:
        units = self.units
        counts = units.counts(seed)
        if counts is None:
            return None
        starts = np.tile(self.theta, (count, 1))
        ends = solver.search(self.surface, starts, counts, damping=1e-4)
        ends = self._anew(ends, counts)
        good = ends.converged
        values = self.surface.constants(ends.theta[good])
        values |= self.law.exponents(values)
        surface, span = self.surface, 1e-9 * (self.surface.high - self.surface.low)
        stuck = (ends.theta <= surface.low + span) | (ends.theta >= surface.high - span)
        edge = int(np.sum(stuck[good].any(axis=1)))
        return Replicates(
            asked=count,
            failed=int(np.sum(~good)),
            unit=units.drawn,
            values=values,
            optimum=lambda C: self._optima(values, C),
            notes=(*units.notes, *self._notes(edge, count)),
            edge=edge,
            kept=good,
        )

    def _notes(self, edge: int, count: int) -> tuple[str, ...]:
        if edge <= 0.05 * count:
            return ()
        return (
            f"{edge / count:.0%} of replicates stop at the edge of the search: some constant is "
            "open on one side, and its interval ends where the search does",
        )

    def _anew(self, ends: solver.SearchResults, counts: Callable[[int, int], Array]) -> solver.SearchResults:
        """Return the results with another search for each replicate that did not converge.

        It begins where the last one stopped, and from RETRIES of the law's own starts.
        """
        rows = np.flatnonzero(~ends.converged)
        if not rows.size:
            return ends
        fresh = self.surface.starts()
        fresh = fresh[:: max(1, len(fresh) // RETRIES)]
        many = len(fresh) + 1
        starts = np.concatenate([np.vstack([ends.theta[row], fresh]) for row in rows])
        which = np.repeat(rows, many)
        again = solver.search(
            self.surface, starts, lambda i, j: np.concatenate([counts(row, row + 1) for row in which[i:j]])
        )
        value = np.where(again.converged, again.objective, np.inf).reshape(-1, many)
        best = np.argmin(value, axis=1) + many * np.arange(len(rows))
        theta, objective, left = (part.copy() for part in (ends.theta, ends.objective, ends.gradient_norm))
        theta[rows], objective[rows] = again.theta[best], again.objective[best]
        left[rows] = again.gradient_norm[best]
        return solver.SearchResults(theta, objective, left)

    def _optima(self, values: Mapping[str, Array], C: float) -> Optimum | None:
        if self.cost is None:
            return None
        r = len(values[self.law.names[0]])
        return self.law.optimum(values, np.full(r, float(C)), self.cost)

    def bends(self) -> tuple[Bend, ...]:
        return bends(self) if self.is_surface and self.cost is not None and not self.broken else ()

    @property
    def refits(self) -> Refits:
        """What makes the fit again with other weights of its runs."""
        return SurfaceRefits(self)

    def influence(self) -> tuple[Influence, ...] | None:
        return influence(self) if self.exponents and not self.broken else None

    def profiles(self, target: float, level: float) -> dict[str, list[float | None]] | None:
        return profiles(self, target, level)

    @property
    def convergence(self) -> Convergence:
        return self.solver

    @property
    def objective_text(self) -> str:
        name = "sum of Huber penalties of ln L" if self.surface.robust else "sum of squares"
        return f"{name} {self.objective:.6g}"

    @property
    def median_error(self) -> float:
        return self.miss

    def to_json(self) -> dict[str, Any]:
        return {
            "formula": self.law.formula,
            "source": self.law.source,
            "params": self.params,
            "objective": self.objective,
            "solver": self.solver.to_json(),
            "exponents": self.exponents,
            "median_abs_rel_miss": self.miss,
            "flops_per_token": None if self.cost is None else str(self.cost),
            "warnings": list(self.warnings),
        }
