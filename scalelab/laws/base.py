"""What a law is, what it is fitted to, and what a fit knows about itself.

A Law is an immutable formula with its settings. Fitting returns a LawFit, a separate
object, so there is no half-fitted state to ask a prediction of. Every fit answers one
question, whatever its form: at C FLOPs, which N and D are best, and what loss do they give?

Symbols: N parameters, D training tokens, C training FLOPs, L loss (nats per token),
U unique training tokens, S optimizer steps, n runs, r bootstrap replicates.

Not here: formulas of constants and how they are fitted (formula.py, fitting.py), isoFLOP
slices (isoflop.py), what is said about all laws together (study.py).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np

from scalelab.errors import DataError

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Observations:
    """Finished runs, one per row; every field is an array of shape (n,)."""

    run: Array
    """Run ids, text, each once."""
    N: Array
    """Parameters, counted as the study's `param_count` says."""
    D: Array
    """Training tokens seen."""
    L: Array
    """Validation loss at the end of the schedule, nats per token."""
    C: Array
    """Training FLOPs spent."""
    flops_planned: Array
    """The isoFLOP budget that a run was designed for; NaN where there was none."""
    seed: Array
    group: Array
    """Which runs share luck: branches of one trunk share a label, other runs have their own."""
    U: Array
    """Unique training tokens; D where nothing was seen twice."""
    S: Array
    """Optimizer steps; NaN where unknown."""
    batch_tokens: Array
    """Tokens per step; NaN where unknown."""
    weight: Array
    """How much a run counts in a fit: 2 counts as two equal runs."""

    def __post_init__(self) -> None:
        n = len(self.run)
        for field in fields(self):
            if np.shape(getattr(self, field.name)) != (n,):
                raise DataError(
                    f"{field.name} has shape {np.shape(getattr(self, field.name))}, not ({n},)",
                    where="the observations handed to a law",
                    fix="give one value per run in every field",
                )
        for name in (*"NDLCU", "weight"):
            value = getattr(self, name)
            self._refuse(~(np.isfinite(value) & (value > 0)), f"{name} must be positive and finite")
        planned = self.flops_planned
        self._refuse(
            np.isinf(planned) | (planned <= 0), "flops_planned must be positive, or NaN for none"
        )
        self._refuse(self.U > self.D * (1 + 1e-9), "more unique tokens (U) than tokens seen (D)")
        names, first = np.unique(self.run, return_index=True)
        if len(names) < n:
            self._refuse(~np.isin(np.arange(n), first), "a run id may stand once only")

    @classmethod
    def of(
        cls,
        N: Array,
        D: Array,
        L: Array,
        *,
        run: Array | None = None,
        C: Array | None = None,
        flops_planned: Array | None = None,
        seed: Array | None = None,
        group: Array | None = None,
        U: Array | None = None,
        S: Array | None = None,
        batch_tokens: Array | None = None,
        weight: Array | None = None,
    ) -> Self:
        """Observations from the three columns that every table has, the rest filled in.

        Without C it is taken as 6 N D; without run ids the rows are named "row 0", "row 1", ...
        """
        N, D, L = (np.asarray(value, float) for value in (N, D, L))
        run = np.array([f"row {i}" for i in range(len(N))] if run is None else run, dtype=str)

        def known(value: Array | None, otherwise: Array | float) -> Array:
            filled = np.asarray(otherwise if value is None else value, float)
            return np.full(N.shape, filled) if filled.ndim == 0 else filled

        if C is None:
            C = 6 * N * D if N.shape == D.shape else D  # shapes that differ are refused below
        return cls(
            run,
            N,
            D,
            L,
            C=known(C, np.nan),
            flops_planned=known(flops_planned, np.nan),
            seed=np.zeros(N.shape, int) if seed is None else np.asarray(seed),
            group=run if group is None else np.asarray(group),
            U=known(U, D),
            S=known(S, np.nan),
            batch_tokens=known(batch_tokens, np.nan),
            weight=known(weight, 1.0),
        )

    def __len__(self) -> int:
        return len(self.run)

    def take(self, which: Array) -> Self:
        """The runs that a mask or an index selects."""
        return type(self)(**{f.name: getattr(self, f.name)[which] for f in fields(self)})

    @property
    def budgets(self) -> Array:
        """The isoFLOP budgets, ascending. Equal means exactly equal: nothing is rounded."""
        return np.unique(self.flops_planned[np.isfinite(self.flops_planned)])

    @property
    def largest_budget(self) -> float:
        """The most compute in evidence: the largest budget, or without any the largest run."""
        return float(self.budgets[-1] if self.budgets.size else self.C.max())

    def _refuse(self, bad: Array, problem: str) -> None:
        rows = np.flatnonzero(bad)
        if rows.size:
            named = ", ".join(f"{i} ({self.run[i]})" for i in rows[:5])
            raise DataError(
                f"{problem}; {rows.size} run(s) are not so",
                where=f"rows {named}{' and more' if rows.size > 5 else ''}",
                fix="mend the table, or leave these runs out and say so (excluded)",
            )


@dataclass(frozen=True, eq=False)
class Optimum:
    """The best use of C FLOPs. Arrays of one shape."""

    C: Array
    N: Array
    D: Array
    L: Array


@dataclass(frozen=True)
class Solver:
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

    def to_json(self) -> dict[str, Any]:
        """How it was drawn, as JSON types."""
        return {
            "replicates": self.asked,
            "failed": self.failed,
            "edge": self.edge,
            "unit": self.unit,
        }


class LawFit(ABC):
    """One law, fitted to runs. Answers on the law's own terms, and says how it was found."""

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

    @property
    @abstractmethod
    def evidence_end(self) -> float:
        """The most compute that this fit has seen, FLOPs; beyond it everything is extrapolated."""

    @abstractmethod
    def optimum(self, C: Array | float) -> Optimum | None:
        """The best N and D at C FLOPs and their loss; broadcasts. None: the law allots nothing."""

    @abstractmethod
    def frontiers(self, C: float) -> dict[str, float]:
        """Each form of the loss at the optimum that these runs allow, by name, nats per token."""

    @abstractmethod
    def expected(self, runs: Observations) -> Array | None:
        """Loss that the law expects of other runs; None for a law that speaks of optima only."""

    @abstractmethod
    def replicates(self, count: int, seed: int) -> Replicates | None:
        """The fit done again `count` times on redrawn evidence; None where nothing can be drawn."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """The law's own part of schema 1, without intervals."""


class Law(ABC):
    """A formula and how it is fitted. Subclasses are final and immutable."""

    formula: str
    source: str
    least_budgets: int = 3
    """Budgets below which a hold-out would test another form of the law than the one in use."""

    @abstractmethod
    def fit(self, runs: Observations) -> LawFit:
        """The law fitted to `runs`.

        Raises:
            FitError: The runs cannot pin it down; the message says which evidence is missing.
        """

    @abstractmethod
    def variants(self) -> Mapping[str, "Law"]:
        """The same law under choices that its user could as well have made, by name."""
