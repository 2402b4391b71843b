"""The errors of a joint fit, drawn again by units that share their luck.

    errors_u = g_u (I - H_uu)^(-1/2) r_u sqrt(nu / chi2_nu)            redrawn, of ln L
    theta*   = theta + (X'X + P)^-1 (X' errors + P (redrawn - assumed means of the priors))

g_u  a standard normal number, one for each unit u (wild cluster bootstrap): runs of a pair, or of a trunk, keep
     their common error, and what the law does not describe counts as error too
r    residuals of ln L; X their derivative; H the hat matrix; P the precision of the priors times the variance of
     the errors. Adjusted residuals have the variance that the errors have; the fit took a part of it from r
nu   degrees of freedom of the variance of ln m at the compute of the decision. The factor makes intervals as wide
     as those of Student's t, which few units need

Each redrawn fit is one Gauss-Newton step from the fit, so ln m, linear in the coordinates, has exactly the interval
of the test; other quantities have the error of that step. With a noise that was stated instead of measured, errors
are normal, equal within a trunk and independent otherwise, and nu is infinite. Means of priors are redrawn from
their priors: what only a prior holds is as uncertain as the prior says.

Source: wild cluster bootstrap, Cameron, Gelbach & Miller 2008, doi:10.1162/rest.90.3.414; one step for each replicate,
Davidson & MacKinnon 1999, doi:10.1111/1468-2354.00026; adjusted residuals and
degrees of freedom, Bell & McCaffrey 2002 (Survey Methodology 28), Pustejovsky & Tipton 2018,
doi:10.1080/07350015.2016.1247004; both variances together, Welch 1947.

Not here: the law (efficiency.py), the units (pairing.py).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import fdtrc  # scipy.stats takes .4 s to import

from scalelab.comparison.efficiency import (
    ALPHA,
    BETA,
    FLOOR,
    NAMES,
    PRIOR,
    SIZE,
    SOFTNESS,
    A,
    B,
    EfficiencyFit,
)
from scalelab.errors import FitError
from scalelab.laws.observations import Array

LEAST_UNITS = 4
"""Units below which nothing is drawn."""
MISFIT = 0.01
"""Level of the test whether the law describes the means of the design points."""


@dataclass(frozen=True, eq=False)
class ErrorModel:
    """How uncertain a joint fit is."""

    fit: EfficiencyFit
    unit: Array
    """Number of each run's unit, shape (n,)."""
    weight: Array
    """Square roots of the weights of the runs, shape (n,)."""
    X: Array
    """Weighted derivative of ln L by the fitted coordinates, shape (n, p)."""
    inverse: Array
    """(X'X + prior)^-1, shape (p, p)."""
    adjusted: Array
    """Weighted errors by run, shape (n,): what a unit's normal number multiplies; sd of a stated noise."""
    stated: bool
    """Whether the noise was stated and not measured."""
    misfit: float | None
    """Chance of such errors of the means of design points, were the law true; None where seeds cannot show it."""
    whole_cells: bool
    """Whether runs of one design point were drawn together, because the law does not describe their means."""

    @property
    def units(self) -> int:
        """How many units there are."""
        return int(self.unit.max()) + 1

    @cached_property
    def _scores(self) -> Array:
        """X' times the error of each unit, shape (units, p)."""
        found = np.zeros((self.units, self.X.shape[1]))
        np.add.at(found, self.unit, self.X * self.adjusted[:, None])
        return found

    def variances(self, along: Array) -> tuple[Array, Array]:
        """Variances of linear combinations of the coordinates: from the runs, and from what priors hold.

        Args:
            along: Shape (p,) or (k, p).
        """
        pull = along @ self.inverse
        own = np.sum((pull @ self._scores.T) ** 2, axis=-1)
        return own, np.sum((pull @ self.fit.precision) * pull, axis=-1) * self.fit.sd**2

    def se(self, C: Array | float) -> Array:
        """Standard error of ln m at C FLOPs, of the shape of C."""
        return np.sqrt(sum(self.variances(self.fit.along(C))))

    @property
    def trend_se(self) -> float:
        """Standard error of the trend s."""
        C = self.fit.C_0
        return float(np.sqrt(sum(self.variances(self.fit.along(C * np.e) - self.fit.along(C)))))

    def dof(self, C: float) -> float:
        """Degrees of freedom of that standard error; infinite for a stated noise."""
        if self.stated:
            return float("inf")
        along = self.fit.along(C)
        own, prior = self.variances(along)
        lever = self.X @ (self.inverse @ along)
        columns = []
        for rows, root in self._roots():
            pulled = root @ lever[rows]
            column = -self.X @ (self.inverse @ (self.X[rows].T @ pulled))
            column[rows] += pulled
            columns.append(column)
        V = np.array(columns)
        M = V @ V.T
        nu = np.trace(M) ** 2 / max(float(np.sum(M**2)), 1e-300)
        if own + prior <= 0:
            return float(nu)
        return float(nu * ((own + prior) / max(own, 1e-300)) ** 2)

    def _roots(self) -> list[tuple[Array, Array]]:
        """Rows of each unit and (I - H_uu)^(-1/2)."""
        return _unit_roots(self.X, self.inverse, self.unit)

    def draws(self, count: int, seed: int, C: float) -> Array:
        """Coordinates of redrawn fits, shape (count, 9).

        Args:
            count: Replicates.
            seed: Of the random numbers.
            C: Compute of the decision, which gives nu.
        """
        rng = np.random.default_rng(seed)
        g = rng.standard_normal((count, self.units))
        nu = self.dof(C)
        scale = np.ones(count) if np.isinf(nu) else np.sqrt(nu / rng.chisquare(nu, count))
        moved = np.zeros((count, len(NAMES)))
        for name, at in (
            ("floor", FLOOR),
            ("ln_alpha", ALPHA),
            ("ln_beta", BETA),
            ("ln_k", SOFTNESS),
            ("ln_t", SIZE),
        ):
            moved[:, at] = PRIOR[name][1] * rng.standard_normal(count)
        apart = PRIOR["a - b"][1] * rng.standard_normal(count)
        moved[:, A], moved[:, B] = apart / 2, -apart / 2
        free = ~self.fit.held
        score = scale[:, None] * (g @ self._scores) + moved[:, free] @ self.fit.precision
        theta = np.tile(self.fit.theta, (count, 1))
        theta[:, free] += score @ self.inverse
        return theta


def error_model(
    fit: EfficiencyFit, unit: Array, cell: Array, joined_cell: Array, trunk: Array, noise: float | None = None
) -> ErrorModel:
    """Return how uncertain a joint fit is.

    Args:
        fit: The law of both recipes.
        unit: Units of the runs, shape (n,).
        cell: Design points, shape (n,).
        joined_cell: Units that hold whole design points, shape (n,); used where the law does not describe the
            means of the design points.
        trunk: Trunks of the runs, shape (n,): the units of a stated noise.
        noise: Stated standard deviation of ln L between seeds; None: as the runs show.

    Raises:
        FitError: The runs have too few units to show their errors.
    """
    weight = np.sqrt(fit.surface.weight)
    X = fit.jacobian * weight[:, None]
    inverse = np.linalg.inv(X.T @ X + fit.precision)
    if noise is not None:
        error = np.full(len(weight), noise)
        return ErrorModel(fit, trunk, weight, X, inverse, error, True, None, False)
    r = fit.residuals * weight
    chance = _misfit(r, X, inverse, cell)
    whole = chance is not None and chance < MISFIT and joined_cell.max() + 1 >= LEAST_UNITS
    unit = joined_cell if whole else unit
    if (count := int(unit.max()) + 1) < LEAST_UNITS:
        raise FitError(
            f"{count} independent units of runs are too few to show their errors: fewer than {LEAST_UNITS}",
            where=f"{len(r)} runs; runs of one trunk, and runs of one seed in both recipes, are one unit",
            fix="train more seeds, or state the noise between seeds: --noise 0.01 (nats per token)",
        )
    adjusted = np.empty(len(r))
    for rows, root in _unit_roots(X, inverse, unit):
        adjusted[rows] = root @ r[rows]
    return ErrorModel(fit, unit, weight, X, inverse, adjusted, False, chance, whole)


def _unit_roots(X: Array, inverse: Array, unit: Array) -> list[tuple[Array, Array]]:
    """Rows of each unit and (I - H_uu)^(-1/2); a direction that the fit takes whole is left out."""
    order = np.argsort(unit, kind="stable")
    found = []
    for rows in np.split(order, np.cumsum(np.bincount(unit))[:-1]):
        values, vectors = np.linalg.eigh(np.eye(len(rows)) - X[rows] @ inverse @ X[rows].T)
        free = np.where(values > 1e-6, 1 / np.sqrt(np.maximum(values, 1e-6)), 0.0)
        found.append((rows, (vectors * free) @ vectors.T))
    return found


def _misfit(r: Array, X: Array, inverse: Array, cell: Array) -> float | None:
    """Chance of an F of the means of design points over their repeats as large as that of the runs."""
    count = np.bincount(cell)
    mean = np.bincount(cell, r) / count
    pure, left = float(np.sum((r - mean[cell]) ** 2)), len(r) - len(count)
    freedom = len(count) - float(np.trace(X @ inverse @ X.T))
    if left < 2 or freedom < 1 or pure <= 1e-20 * len(r):
        return None
    F = float(np.sum(count * mean**2)) / freedom / (pure / left)
    return float(fdtrc(freedom, left, F))
