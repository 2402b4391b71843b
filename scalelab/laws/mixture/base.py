"""What a mixture law is fitted to, and what it answers.

All runs of a fit have one size and one number of tokens, so only the mixture decides their losses. A law predicts the
loss of every target (a domain's held-out text) from the shares of the domains in the training text.

Symbols: w shares of the k domains, which sum to 1; L losses of the m targets, nats per token; n runs.
Not here: the choice of a mixture (recommendation.py), tables of runs (records/mixture_table.py).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NoReturn, Self

import numpy as np

from scalelab.errors import FitError
from scalelab.laws.observations import Array

SUM_TOLERANCE = 2e-3
"""How far shares may be from a sum of 1: tables round them."""


@dataclass(frozen=True, eq=False)
class MixtureRuns:
    """Runs of one size that differ in their mixture."""

    domains: tuple[str, ...]
    targets: tuple[str, ...]
    weights: Array
    """Shares of the domains, shape (n, k); rows sum to 1."""
    losses: Array
    """Shape (n, m), nats per token."""
    names: tuple[str, ...] = ()
    """Name of each run; the size of the group otherwise."""

    @classmethod
    def of(
        cls,
        weights: Array,
        losses: Array,
        domains: Sequence[str] | None = None,
        targets: Sequence[str] | None = None,
        names: Sequence[str] = (),
        source: str = "",
    ) -> Self:
        """Return runs, checked. Shares within SUM_TOLERANCE of a sum of 1 are divided by it.

        Args:
            weights: Shares of the domains, shape (n, k).
            losses: Losses of the targets, nats per token, shape (n, m).
            domains: Names of the domains; None: numbered.
            targets: Names of the targets; None: the domains where they are as many, else numbered.
            names: Names of the runs; empty: numbered.
            source: File that they are from, for messages; empty: none.

        Raises:
            FitError: A share or loss is no number of its kind, or shares do not sum to 1.
        """
        W, L = np.atleast_2d(np.asarray(weights, float)), np.atleast_2d(np.asarray(losses, float))
        domains = tuple(domains or (f"domain {i + 1}" for i in range(W.shape[1])))
        targets = tuple(
            targets
            or (domains if L.shape[1] == len(domains) else (f"target {i + 1}" for i in range(L.shape[1])))
        )
        names = tuple(names) or tuple(f"run {i + 1}" for i in range(len(W)))

        def where(i: int) -> str:
            return f"{source}, {names[i]}" if source else names[i]

        for values, what, low in ((W, domains, 0.0), (L, targets, np.nextafter(0, 1))):
            bad = ~(np.isfinite(values) & (values >= low))
            if bad.any():
                i, j = np.argwhere(bad)[0]
                kind, range_ = ("share", "from 0 to 1") if values is W else ("loss", "positive")
                refuse(
                    f"the {kind} of {what[j]} is {values[i, j]:g}",
                    where(i),
                    f"correct it, or remove the run: the number must be {range_}",
                )
        off = np.abs(W.sum(axis=1) - 1)
        if off.max(initial=0) > SUM_TOLERANCE:
            i = int(np.argmax(off))
            refuse(
                f"the shares sum to {W[i].sum():.6g}, not 1",
                where(i),
                "give the share of every domain, as parts of 1",
            )
        return cls(domains, targets, W / W.sum(axis=1, keepdims=True), L, names)

    def __len__(self) -> int:
        return len(self.weights)

    def take(self, rows: Array) -> "MixtureRuns":
        """Return some of the runs, by number."""
        rows = np.asarray(rows)
        return replace(
            self,
            weights=self.weights[rows],
            losses=self.losses[rows],
            names=tuple(self.names[i] for i in rows),
        )

    @property
    def mixture(self) -> Array:
        """Number of the distinct mixture of each run, shape (n,)."""
        return np.unique(self.weights.round(9), axis=0, return_inverse=True)[1].ravel()

    @property
    def n_mixtures(self) -> int:
        """Number of distinct mixtures."""
        return len(np.unique(self.mixture))


class MixtureFit(ABC):
    """A mixture law, fitted. Subclasses are frozen dataclasses."""

    law: "MixtureLaw"
    runs: MixtureRuns

    @abstractmethod
    def predict(self, weights: Array) -> Array:
        """Return the losses of mixtures, nats per token.

        Args:
            weights: Shares, shape (k,) or (q, k).

        Returns:
            Shape (m,) or (q, m).
        """

    def jacobian(self, weights: Array) -> Array:
        """Return the derivative of each target's loss by each share, shape (m, k), for shares of shape (k,)."""
        step = 1e-6
        return np.stack(
            [
                (self.predict(weights + step * e) - self.predict(np.maximum(weights - step * e, 0)))
                / (step + np.minimum(step, weights @ e))
                for e in np.eye(len(weights))
            ],
            axis=1,
        )


class MixtureLaw(ABC):
    """A formula for the losses of a mixture. Subclasses are frozen dataclasses."""

    formula: str
    source: str
    is_smooth: bool = True
    """Whether it has a best mixture between those that were trained."""

    @abstractmethod
    def least_mixtures(self, n_domains: int) -> int:
        """Return the number of distinct mixtures that a fit needs."""

    @abstractmethod
    def _fit(self, runs: MixtureRuns) -> MixtureFit:
        """Return the law fitted to enough runs."""

    def fit(self, runs: MixtureRuns) -> MixtureFit:
        """Return the law fitted to runs.

        Raises:
            FitError: There are too few mixtures, or a share never varies.
        """
        least = self.least_mixtures(len(runs.domains))
        if runs.n_mixtures < least:
            refuse(
                f"{runs.n_mixtures} mixtures are too few for {type(self).__name__}: {len(runs.domains)} domains need "
                f"{least}",
                f"{len(runs)} runs",
                "train more mixtures: 3 to 5 for each domain",
            )
        if least > 1:
            spread = np.ptp(runs.weights, axis=0)
            if spread.min() <= 0:
                j = int(np.argmin(spread))
                refuse(
                    f"the share of {runs.domains[j]} is {runs.weights[0, j]:g} in every run",
                    f"{len(runs)} runs",
                    "add mixtures with other shares of it, or merge it with another domain",
                )
        return self._fit(runs)


def refuse(problem: str, where: str, fix: str) -> NoReturn:
    """Raise a FitError."""
    raise FitError(problem, where=where, fix=fix)
