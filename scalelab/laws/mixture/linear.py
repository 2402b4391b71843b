"""Log loss linear in the shares: the plainest regression, to hold others against.

    ln L_t(w) = sum_j b_tj w_j

The shares sum to 1, so there is no intercept.
"""

from dataclasses import dataclass

import numpy as np

from scalelab.laws.mixture.base import MixtureFit, MixtureLaw, MixtureRuns
from scalelab.laws.observations import Array


@dataclass(frozen=True, eq=False)
class LinearFit(MixtureFit):
    """The coefficients of every target."""

    law: "Linear"
    runs: MixtureRuns
    coefficients: Array
    """b, shape (m, k)."""

    def predict(self, weights: Array) -> Array:
        """Return the losses of mixtures."""
        return np.exp(np.asarray(weights, float) @ self.coefficients.T)


@dataclass(frozen=True)
class Linear(MixtureLaw):
    """Log loss linear in the shares."""

    formula = "ln L_t = sum_j b_tj w_j"
    source = "ordinary least squares"

    def least_mixtures(self, n_domains: int) -> int:
        """Return the number of constants of a target, and one more to judge them by."""
        return n_domains + 1

    def _fit(self, runs: MixtureRuns) -> LinearFit:
        found = np.linalg.lstsq(runs.weights, np.log(runs.losses), rcond=None)[0]
        return LinearFit(self, runs, found.T)
