"""Matches of two models, and the rating scale shared by Bradley-Terry and Elo.

Not here: the ratings (ranking.py, elo.py).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np

from scalelab.errors import DataError
from scalelab.evals.preference.logistic import sigmoid

Array = np.ndarray

POINTS_PER_LOGIT = 400 / np.log(10)
MEAN_RATING = 1000.0


@dataclass(frozen=True, eq=False)
class Matches:
    """Matches of two models, one per row of three arrays of shape (n,)."""

    names: tuple[str, ...]
    """Model names, each once; `first` and `second` are indices into them."""
    first: Array
    second: Array
    outcome: Array
    """Points of `first`: 1 a win, 0 a loss, .5 a tie, or a judge's probability."""

    def __post_init__(self) -> None:
        if len(self.names) < 2:
            _refuse(f"{len(self.names)} model(s); a ranking needs two", "add a second model")
        if len(set(self.names)) < len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            _refuse(f"model {twice!r} occurs twice among the names", "give every model one name")
        shapes = {np.shape(each) for each in (self.first, self.second, self.outcome)}
        if len(shapes) > 1 or len(next(iter(shapes))) != 1:
            _refuse(f"arrays of shapes {sorted(shapes)}", "give three arrays of one length")
        if not len(self):
            _refuse("there are no matches", "judge some pairs of answers first")
        wrong = ~((self.outcome >= 0) & (self.outcome <= 1))  # NaN is wrong too
        if wrong.any():
            row = int(np.argmax(wrong))
            _refuse(
                f"{wrong.sum()} outcome(s) not between 0 and 1; row {row} has {self.outcome[row]}",
                "1: the first won, 0: the second won, .5: a tie; leave out pairs without a verdict",
            )
        sides = np.stack([self.first, self.second])
        if sides.dtype.kind not in "iu" or sides.min() < 0 or sides.max() >= len(self.names):
            _refuse(
                f"`first` and `second` range from {sides.min()} to {sides.max()}, of {sides.dtype}",
                f"use indices into the {len(self.names)} names, from 0",
            )
        itself = np.flatnonzero(self.first == self.second)
        if itself.size:
            name = self.names[self.first[itself[0]]]
            _refuse(
                f"model {name!r} plays against itself in {itself.size} match(es)",
                f"leave out row {itself[0]} and its like, or give the two versions two names",
            )
        idle = np.setdiff1d(np.arange(len(self.names)), sides)
        if idle.size:
            _refuse(f"model {self.names[idle[0]]!r} has no matches", "drop its name, or judge it")

    @classmethod
    def of(cls, rows: Iterable[tuple[str, str, float]]) -> Self:
        """Return matches from rows (first model, second model, outcome); names in order of appearance."""
        table = list(rows)
        index: dict[str, int] = {}
        for row in table:
            for name in row[:2]:
                index.setdefault(name, len(index))
        first, second = (np.array([index[row[i]] for row in table], dtype=int) for i in (0, 1))
        return cls(tuple(index), first, second, np.array([row[2] for row in table], dtype=float))

    def __len__(self) -> int:
        return len(self.outcome)

    @property
    def n_by_model(self) -> Array:
        """Number of matches of each model, shape (models,)."""
        return np.bincount(np.concatenate([self.first, self.second]), minlength=len(self.names))

    @property
    def component(self) -> Array:
        """Group of each model, 0, 1, ...; models of different groups never met; (models,)."""
        met = np.zeros((len(self.names),) * 2, bool)
        met[self.first, self.second] = met[self.second, self.first] = True
        # A model's group is named by its first member, then groups are counted.
        return np.unique(np.argmax(reached(met), axis=1), return_inverse=True)[1]


def _refuse(problem: str, fix: str) -> None:
    raise DataError(problem, where="the matches to rank", fix=fix)


@dataclass(frozen=True, eq=False)
class RatingScale:
    """Ratings with one zero per group of models."""

    names: tuple[str, ...]
    rating: Array
    """Elo points, shape (models,)."""
    component: Array
    """Group of each model. Ratings of different groups are not comparable."""
    n_matches: int
    n_by_model: Array

    @property
    def rank(self) -> Array:
        """1 is the best of its group; equal ratings share a rank. Shape (models,)."""
        # Smaller differences are rounding errors.
        above = self.rating[None, :] > self.rating[:, None] + 1e-6
        return 1 + np.sum(above & (self.component[None, :] == self.component[:, None]), axis=1)

    def win_probability(self, one: str, other: str) -> float:
        """Return the predicted share of matches that `one` wins against `other`, ties half.

        Raises:
            DataError: A name is unknown, or no chain of matches connects the two.
        """
        i, j = self._pair(one, other)
        return float(sigmoid((self.rating[i] - self.rating[j]) / POINTS_PER_LOGIT))

    def _pair(self, one: str, other: str) -> tuple[int, int]:
        for name in (one, other):
            if name not in self.names:
                raise DataError(
                    f"no model {name!r} in this ranking",
                    where="the models to compare",
                    fix=f"one of {', '.join(self.names)}",
                )
        i, j = self.names.index(one), self.names.index(other)
        if self.component[i] != self.component[j]:
            raise DataError(
                f"{one!r} and {other!r} are not comparable: no chain of matches connects them",
                where=f"groups {self._members(self.component[i])} and {self._members(self.component[j])}",
                fix="judge at least one pair across the two groups",
            )
        return i, j

    def _members(self, component: int) -> str:
        return "{" + ", ".join(np.array(self.names)[self.component == component]) + "}"

    def _table(self, head: str, cells: list[str]) -> list[str]:
        """Return one line per model, best first, group by group; `cells` follow the rating."""
        wide = max(5, *map(len, self.names))
        lines = []
        groups = np.unique(self.component)
        for group in groups:
            if len(groups) > 1:
                lines.append(f"group {group + 1} of {len(groups)}, ranked on its own:")
            lines.append(f"rank  {'model':<{wide}}  rating  {head}  matches")
            members = np.flatnonzero(self.component == group)
            lines += [
                f"{self.rank[i]:>4}  {self.names[i]:<{wide}}  {self.rating[i]:>6.1f}  "
                f"{cells[i]:<{len(head)}}  {self.n_by_model[i]:>7}"
                for i in members[np.argsort(self.rank[members], kind="stable")]
            ]
        if len(groups) > 1:
            lines.append("No match connects the groups: ratings of different groups are not comparable.")
        return lines


def reached(edge: Array) -> Array:
    """Return which nodes can be reached from which along edges (..., k, k), including themselves."""
    k = edge.shape[-1]
    reach = (edge | np.eye(k, dtype=bool)).astype(np.float32)
    for _ in range(int(np.ceil(np.log2(k)))):  # each squaring doubles the length of the paths
        reach = (reach @ reach > 0).astype(np.float32)
    return reach > 0
