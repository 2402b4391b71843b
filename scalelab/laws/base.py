"""What a law is, what it is fitted to, and what a fit knows about itself.

A Law is an immutable formula with its settings. Fitting returns a LawFit, a separate
object, so there is no half-fitted state to ask a prediction of. What a fit can answer it says
itself: each method of LawFit is one question, and one that it cannot answer gives None (there is
no such thing) or is refused by the law's name. Nothing else asks which class a fit has.

Symbols: N parameters, D training tokens, C training FLOPs, L loss (nats per token),
r bootstrap replicates.

Not here: the runs (observations.py), columns that single laws read (columns.py), formulas of
constants and how they are fitted (formula.py, solver.py), isoFLOP slices (isoflop/law.py), what is
reported about all laws together (study/).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from scalelab.errors import FitError
from scalelab.laws.columns import Column
from scalelab.laws.description import Fact, FitContext, Influence
from scalelab.laws.observations import Array, Observations
from scalelab.laws.uncertainty.conformal import CalibratedWidth

if TYPE_CHECKING:
    from scalelab.laws.isoflop.slices import Slice
    from scalelab.laws.token_cost import TokenCost


@dataclass(frozen=True, eq=False)
class Optimum:
    """The best use of C FLOPs. Arrays of one shape."""

    C: Array
    N: Array
    D: Array
    L: Array

    @classmethod
    def writable(cls, C: Array | float, N: Array, D: Array, L: Array) -> "Optimum":
        """Return the optimum, with NaN where a search for it ended at no number that can be written down.

        Args:
            C: Training FLOPs.
            N: Parameters.
            D: Training tokens.
            L: Loss there, nats per token.
        """
        held = np.isfinite(L) & (N > 1e-100) & (D > 1e-100) & (N < 1e100) & (D < 1e100)
        return cls(np.asarray(C), *(np.where(held, value, np.nan)[()] for value in (N, D, L)))


@dataclass(frozen=True)
class Convergence:
    """What a search knows about its own end."""

    starts: int
    """Searches that were made."""
    agreement: float
    """Share of them that reached the best objective."""
    gradient_norm: float
    """Largest pull left on any parameter, as a share of all that pulls on it; 0 at an optimum."""
    at_bound: tuple[str, ...]
    """Parameters that stopped at the edge of what was allowed: not determined by the runs."""
    converged: bool

    def to_json(self) -> dict[str, Any]:
        """The record as JSON types."""
        return {
            "starts": self.starts,
            "agreement": self.agreement,
            "gradient_norm": self.gradient_norm,
            "at_bound": list(self.at_bound),
            "converged": self.converged,
        }


@dataclass(frozen=True, eq=False)
class Replicates:
    """A law fitted again to evidence as it might have been: r replicates that worked."""

    asked: int
    failed: int
    """Replicates without an answer. They are counted, and their values are left out."""
    unit: str
    """What was drawn again, in words."""
    values: Mapping[str, Array]
    """Each constant and exponent, shape (r,)."""
    optimum: Callable[[float], Optimum]
    """The optimum at C of every replicate, shape (r,)."""
    notes: tuple[str, ...] = ()
    """What only the redrawing showed, and a reader must know."""
    edge: int = 0
    """Replicates that stopped at the edge of the search; they are kept in the values."""
    kept: Array | None = None
    """Which of the replicates asked for have values, a mask of shape (asked,); None where that is not recorded."""

    def to_json(self) -> dict[str, Any]:
        """How it was drawn, as JSON types."""
        return {"replicates": self.asked, "failed": self.failed, "edge": self.edge, "unit": self.unit}


WORTH = 0.1
"""Chance below which a bend counts: one surface in ten has one that is not there."""


@dataclass(frozen=True, eq=False)
class Bend:
    """How the runs leave a surface, smoothly, as one input grows (uncertainty/bend.py)."""

    symbol: str
    """N or D."""
    coefficient: float
    """What it adds to ln L, per square of the input's ln."""
    t: float
    """The coefficient over its standard error."""
    chance: float
    """Probability of a t as far from 0 where the surface holds."""
    optimum: Callable[[float], Optimum | None]
    """The optimum at C FLOPs with the bend; None where there is none."""
    draws: Callable[[float, int], Optimum]
    """The optima at C FLOPs of r bent surfaces as uncertain as the runs leave them, shape (r,); NaN without one."""

    @property
    def worth(self) -> bool:
        """Whether the runs are better described with it than without."""
        return self.chance < WORTH


@dataclass(frozen=True, eq=False)
class LawFigure:
    """A figure that one law has of its own, beside those of every study."""

    figure: str
    """Name in the table of figures, to which packages add (scalelab.figures)."""
    data: Any
    """What that is handed; another process may draw it, so it can be pickled."""
    caption: str


class LawFit(ABC):
    """One law, fitted to runs. Answers on the law's own terms, and says how it was found.

    Subclasses are frozen dataclasses. They define what is annotated here and override the
    questions that they can answer.
    """

    law: "Law"
    runs: Observations
    """The runs that the fit used."""
    params: Mapping[str, float]
    exponents: Mapping[str, float]
    """a and b of N* ~ C^a, D* ~ C^b; empty for a law that allots nothing."""
    warnings: tuple[str, ...]
    """What a reader must know before trusting the numbers."""
    broken: tuple[str, ...]
    """Those warnings that forbid relying on the fit: it did not converge, or hangs at a bound."""

    cost: "TokenCost | None" = None
    """FLOPs per training token of the runs; None for a fit that does not know them."""
    slices: tuple["Slice", ...] = ()
    """The isoFLOP slices that it goes through; empty for a fit that has none."""
    correlated: tuple[str, ...] = ()
    """Constants found together, so that their correlation over replicates means something."""
    shown_params: tuple[str, ...] | None = None
    """Constants that a reader is shown in a table of their own; None for all."""
    not_redrawn: str | None = None
    """Why its evidence cannot be drawn again; None where it can, or where there is no more to say."""
    is_surface: bool = False
    """Whether it has a loss for every N and D (loss_at) and an optimum on every budget."""

    @property
    def evidence_warnings(self) -> tuple[str, ...]:
        """Those warnings that hold of the runs themselves, whichever law makes the forecast."""
        return self.warnings

    @property
    def evidence_end(self) -> float:
        """The most compute that this fit has seen, FLOPs; beyond it everything is extrapolated."""
        return self.runs.largest_budget

    @property
    def minima(self) -> tuple["Slice", ...]:
        """The slices with an interior minimum."""
        return tuple(s for s in self.slices if s.refused is None)

    @property
    def determined_by(self) -> tuple[int, int] | None:
        """Different points that hold the constants, and how many constants they hold; None for no formula."""
        return None

    @property
    def floor(self) -> float | None:
        """Loss that no compute goes below, nats per token; None where the fit sees no floor."""
        return self.params.get("E")

    def predict(self, **inputs: Array | float) -> Array:
        """Loss at the formula's own inputs, handed over by symbol (N=1e9, D=2e10).

        Raises:
            FitError: The law has no loss of single runs.
        """
        self._cannot("predict the loss of a run")

    def loss_at(self, N: Array | float, D: Array | float, params: Mapping[str, Any] | None = None) -> Array:
        """Loss of any N and D, nats per token, all else as good as the law knows; broadcasts.

        Args:
            N: Parameters.
            D: Tokens.
            params: Other constants of the same law, such as those of replicates.

        Raises:
            FitError: The law is no surface over N and D.
        """
        self._cannot("predict the loss of any N and D")

    def expected(self, runs: Observations) -> Array | None:
        """Loss that the law expects of other runs; None for a law of optima only."""
        return None

    def optimum(self, C: Array | float) -> Optimum | None:
        """The best N and D at C FLOPs and their loss; broadcasts. None: the law allots nothing."""
        return None

    def frontiers(self, C: float) -> dict[str, float]:
        """Each form of the loss at the optimum that these runs allow, by name, nats per token."""
        best = self.optimum(C)
        return {} if best is None else {"surface": float(np.ravel(best.L)[0])}

    def refuted(self, form: str) -> str | None:
        """Why the runs speak against one form of the frontier; None where they do not."""
        return None

    def replicates(self, count: int, seed: int) -> Replicates | None:
        """The fit done again `count` times on redrawn evidence; None where nothing can be drawn."""
        return None

    def drawn(self, count: int, seed: int) -> tuple[Array, Array, Array, Array] | None:
        """C, N*, D*, L* of every replicate and minimum, each (count, m), NaN where it was lost.

        None for a fit without minima, and where the slices leave no residual to draw from.
        """
        return None

    def calibrated(self, C: float, level: float) -> CalibratedWidth | None:
        """How far its forecast may be off by the errors of other tables; None for a law without that.

        Args:
            C: Training compute of the forecast, FLOPs.
            level: Level of the interval, 0 to 1; outside of the levels that were calibrated there is none.
        """
        return None

    def bends(self) -> tuple[Bend, ...]:
        """How the runs bend away from the surface as one input grows; empty where that cannot be asked."""
        return ()

    def influence(self) -> tuple[Influence, ...] | None:
        """Return how far single runs, and its outliers together, move it; None if it cannot be refitted."""
        return None

    def profiles(self, target: float, level: float) -> dict[str, list[float | None]] | None:
        """Intervals by profile likelihood, of each constant, exponent and the optimum at `target`.

        Args:
            target: FLOPs.
            level: Between 0 and 1.

        Returns:
            Both ends by quantity, None for an open end; None for a fit without a likelihood.
        """
        return None

    @property
    def convergence(self) -> Convergence | None:
        """How the search for the constants ended; None for a fit in closed form."""
        return None

    @property
    def objective_text(self) -> str | None:
        """Name and value of what was minimised; None for a fit in closed form."""
        return None

    @property
    def median_error(self) -> float | None:
        """Median relative error of the loss of the runs, 0.01 for 1%; None where it has none."""
        return None

    def facts(self, context: FitContext) -> tuple[Fact, ...]:
        """Return numbers that only this law can state, for the report.

        Args:
            context: What the study knows of the fit.
        """
        return ()

    def pictures(self) -> tuple[LawFigure, ...]:
        """Figures of its own, for the report."""
        return ()

    def to_json(self) -> dict[str, Any]:
        """The law's own part of schema 1, without intervals."""
        return {
            "formula": self.law.formula,
            "source": self.law.source,
            "params": dict(self.params),
            "exponents": dict(self.exponents),
            "warnings": list(self.warnings),
        }

    def _cannot(self, what: str) -> NoReturn:
        raise FitError(
            f"the {type(self.law).__name__} law cannot {what}",
            where=f"its fit to {len(self.runs)} runs",
            fix="ask it for the optimum of a budget, or fit a law of N and D, such as chinchilla",
        )


class Law(ABC):
    """A formula and how it is fitted. Subclasses are final and immutable."""

    formula: str
    source: str
    columns: tuple[Column, ...] = ()
    """What it reads of a table beyond n_params, n_tokens, flops and loss."""
    names: tuple[str, ...] = ()
    """Its constants, as in the formula."""
    uses: tuple[str, ...] = ()
    """The inputs of `loss`: N, D, C and symbols of its columns; empty where it has no `loss`."""
    published: Mapping[str, float] = {}
    """Constants from the literature, for simulation and comparison; the source says whose."""
    signed: frozenset[str] = frozenset()
    """Its constants that may be zero or negative; the others are positive."""
    least_budgets: int = 3
    """Budgets below which a hold-out would test another form of the law than the one in use."""
    least_runs: int = 0
    """Runs of different inputs below which it is refused, where that is more than its constants ask."""
    has_window: bool = False
    """Whether it chooses which sizes around the best one count, so that nobody else has to."""

    @abstractmethod
    def fit(self, runs: Observations) -> LawFit:
        """The law fitted to `runs`.

        Raises:
            FitError: The runs cannot pin it down; the message says which evidence is missing.
        """

    def quick(self) -> "Law":
        """The law with the choices that need many fits left out, for tests that fit it many times."""
        return self

    @property
    def quick_differs(self) -> str | None:
        """How `quick` differs from the law, in words for a reader of such tests; None where it does not."""
        return None

    def variants(self) -> Mapping[str, "Law"]:
        """Return the law under other reasonable settings, by name."""
        return {}

    def loss(self, params: Mapping[str, Any], **inputs: Array) -> Array:
        """The formula as the paper prints it, nats per token; broadcasts.

        Raises:
            FitError: The law is no formula of the loss of a run.
        """
        raise FitError(
            f"{type(self).__name__} is no formula of the loss of a run",
            where="its constants and inputs",
            fix="use a law that is one, such as chinchilla",
        )

    def inputs(self, runs: Observations) -> dict[str, Array]:
        """Its inputs in these runs, by symbol.

        Raises:
            FitError: A column that it needs is not there, or has a value that cannot be.
        """
        own = {column.symbol: column for column in self.columns}
        return {
            symbol: own[symbol].read(runs, type(self).__name__) if symbol in own else getattr(runs, symbol)
            for symbol in self.uses
        }
