"""The losses of the nearest mixture that was trained, and their mean over all: what a law has to beat.

Near is the sum of absolute differences of shares (twice the total variation distance).
"""

from dataclasses import dataclass

import numpy as np

from scalelab.laws.mixture.base import MixtureFit, MixtureLaw, MixtureRuns
from scalelab.laws.observations import Array


@dataclass(frozen=True, eq=False)
class NearestFit(MixtureFit):
    """The runs themselves."""

    law: "Nearest"
    runs: MixtureRuns

    def predict(self, weights: Array) -> Array:
        """Return the losses of the nearest mixtures; of several equally near ones, their geometric mean."""
        w = np.asarray(weights, float)
        distance = np.abs(w[..., None, :] - self.runs.weights).sum(axis=-1)
        near = distance <= distance.min(axis=-1, keepdims=True) + 1e-9
        share = near / near.sum(axis=-1, keepdims=True)
        return np.exp(share @ np.log(self.runs.losses))


@dataclass(frozen=True)
class Nearest(MixtureLaw):
    """The nearest mixture."""

    formula = "L_t(w) = L_t of the nearest mixture"
    source = "nearest neighbour"
    is_smooth = False

    def least_mixtures(self, n_domains: int) -> int:
        """Return 1."""
        return 1

    def _fit(self, runs: MixtureRuns) -> NearestFit:
        return NearestFit(self, runs)


@dataclass(frozen=True, eq=False)
class MeanFit(MixtureFit):
    """The mean of every target."""

    law: "Mean"
    runs: MixtureRuns
    losses: Array
    """Geometric means, shape (m,)."""

    def predict(self, weights: Array) -> Array:
        """Return the means, whatever the mixture."""
        return np.broadcast_to(self.losses, (*np.shape(weights)[:-1], len(self.losses))).copy()


@dataclass(frozen=True)
class Mean(MixtureLaw):
    """No law: the same losses for every mixture."""

    formula = "L_t(w) = mean of L_t"
    source = "mean"
    is_smooth = False

    def least_mixtures(self, n_domains: int) -> int:
        """Return 1."""
        return 1

    def _fit(self, runs: MixtureRuns) -> MeanFit:
        return MeanFit(self, runs, np.exp(np.log(runs.losses).mean(axis=0)))
