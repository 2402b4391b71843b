"""The runs that laws are fitted to: fields that every law may use, and columns by name.

Symbols: N parameters, D training tokens, C training FLOPs, L loss (nats per token), n runs.

Not here: which columns single laws read (columns.py), what is wrong with runs (study/quality/).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Self

import numpy as np

from scalelab.errors import DataError
from scalelab.laws.columns import RECIPE, RECORDED

Array = np.ndarray

LOSSES = (1e-100, 1e100)
"""Smallest and largest loss, nats per token. Fits square it, and the square has to be a number."""


@dataclass(frozen=True, eq=False)
class Observations:
    """Finished runs, one per row; every field and column is an array of shape (n,)."""

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
    weight: Array
    """How much a run counts in a fit: 2 counts as two equal runs."""
    columns: Mapping[str, Array] = field(default_factory=dict)
    """Whatever else was recorded of the runs, by the table's name; NaN where unknown."""
    recipe: Mapping[str, Array] = field(default_factory=dict)
    """Settings of training that no fitted law reads, numbers or words, by the table's name."""

    def __post_init__(self) -> None:
        n = len(self.run)
        for name, value in (self._fields() | self.columns | self.recipe).items():
            if np.shape(value) != (n,):
                raise DataError(
                    f"{name} has shape {np.shape(value)}, not ({n},)",
                    where="the observations handed to a law",
                    fix="give one value per run in every field and column",
                )
        for name in (*"NDLC", "weight"):
            value = getattr(self, name)
            self._refuse(~(np.isfinite(value) & (value > 0)), f"{name} must be positive and finite")
        beyond = (LOSSES[0] > self.L) | (LOSSES[1] < self.L)
        shown = ", ".join(f"{loss:g}" for loss in self.L[beyond][:3])
        self._refuse(beyond, f"L must be between {LOSSES[0]:g} and {LOSSES[1]:g} nats per token, not {shown}")
        planned = self.flops_planned
        self._refuse(np.isinf(planned) | (planned <= 0), "flops_planned must be positive, or NaN for none")
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
        weight: Array | None = None,
        columns: Mapping[str, Array] | None = None,
        recipe: Mapping[str, Array] | None = None,
    ) -> Self:
        """Observations from the three columns that every table has, the rest filled in.

        Without C it is taken as 6 N D; without run ids the rows are named "row 0", "row 1", ...

        Args:
            N: Parameters, shape (n,).
            D: Training tokens, shape (n,).
            L: Loss, nats per token, shape (n,).
            run: Ids of the runs; None: "row 0", "row 1", ...
            C: Training FLOPs; None: 6 N D.
            flops_planned: IsoFLOP budget of each run, FLOPs; None: no budgets.
            seed: Seed of each run; None: unknown.
            group: Group of runs that differ only in their seed; None: unknown.
            weight: Weight of each run; None: 1.
            columns: Further columns by name, each of shape (n,).
            recipe: Settings of training by name, each of shape (n,); None: unknown.
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
            weight=known(weight, 1.0),
            columns={name: np.asarray(value) for name, value in (columns or {}).items()},
            recipe={name: np.asarray(value) for name, value in (recipe or {}).items()},
        )

    def __len__(self) -> int:
        return len(self.run)

    def take(self, which: Array) -> Self:
        """The runs that a mask or an index selects."""
        own = {name: value[which] for name, value in self._fields().items()}
        columns = {name: value[which] for name, value in self.columns.items()}
        recipe = {name: value[which] for name, value in self.recipe.items()}
        return type(self)(**own, columns=columns, recipe=recipe)

    def recorded(self, name: str) -> Array:
        """A named column; NaN in every row where the runs have none."""
        return self.columns.get(name, np.full(len(self), np.nan))

    @property
    def own_columns(self) -> dict[str, Array]:
        """The named columns that are there for single laws only: not those always recorded.

        A setting of the recipe that a law reads is one of them, as it is then no part of the recipe.
        """
        read = {name for name in RECIPE if name not in self.recipe}
        always = {column.name for column in RECORDED} - read
        return {name: value for name, value in self.columns.items() if name not in always}

    def _fields(self) -> dict[str, Array]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("columns", "recipe")}

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
                fix="correct the table, or leave these runs out and list them as excluded",
            )


def alike(*columns: Array) -> Array:
    """A number for each row, equal where every column is; shape (n,). NaN equals NaN."""
    which = np.zeros(len(columns[0]), int)
    for column in columns:
        _, value = np.unique(column, return_inverse=True)
        _, which = np.unique(which * (value.max(initial=0) + 1) + value, return_inverse=True)
    return which
