"""Log loss linear in log shares, with an offset for what the other domains teach.

    ln L_t(w) = a_t + sum_j b_tj ln(w_j + c_t)

a_t and b_tj are ordinary least squares. The offset c_t keeps a share of 0 finite: it is what a domain's absence is
worth. Of OFFSETS each target takes the one whose errors are least when each mixture is left out, with all its runs:
a run that repeats it, or that a bootstrap drew twice, would give it away. Least squares has them in closed form (PRESS
by blocks): (I - H_gg)^-1 e_g for the n runs of a mixture, whose rows of the hat matrix H are equal, h, so that it is
e_g + h sum(e_g) / (1 - n h).

Symbols: w_j share of domain j; L_t loss of target t, nats per token; c_t offset, a share; e residuals of ln L.
Source: log-linear regression of mixtures as in RegMix (Liu et al. 2024, arXiv:2407.01492) and Olmix
(arXiv:2602.12237), here in log shares; PRESS, Allen 1974 (Technometrics 16).
"""

from dataclasses import dataclass

import numpy as np

from scalelab.laws.mixture.base import MixtureFit, MixtureLaw, MixtureRuns, refuse
from scalelab.laws.observations import Array

OFFSETS = (0.001, 0.002, 0.003, 0.005, 0.007, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1)


@dataclass(frozen=True, eq=False)
class LogLogFit(MixtureFit):
    """The constants of every target."""

    law: "LogLog"
    runs: MixtureRuns
    offsets: Array
    """c, shape (m,)."""
    intercepts: Array
    """a, shape (m,)."""
    coefficients: Array
    """b, shape (m, k)."""

    def predict(self, weights: Array) -> Array:
        """Return the losses of mixtures."""
        w = np.asarray(weights, float)
        logs = np.log(w[..., None, :] + self.offsets[:, None])  # (..., m, k)
        return np.exp(self.intercepts + (logs * self.coefficients).sum(axis=-1))

    def jacobian(self, weights: Array) -> Array:
        """Return the derivative of each target's loss by each share, shape (m, k)."""
        w = np.asarray(weights, float)
        return self.predict(w)[:, None] * self.coefficients / (w + self.offsets[:, None])


@dataclass(frozen=True)
class LogLog(MixtureLaw):
    """Log loss linear in the logs of shares plus an offset."""

    offset: float | None = None
    """c of every target, a share; None: of OFFSETS, for each target the one of least error on mixtures left out."""

    formula = "ln L_t = a_t + sum_j b_tj ln(w_j + c_t)"
    source = "log-linear regression of mixtures, arXiv:2407.01492, arXiv:2602.12237; PRESS, Allen 1974"

    def least_mixtures(self, n_domains: int) -> int:
        """Return the number of constants of a target, and one more to judge them by."""
        return n_domains + 2

    def _fit(self, runs: MixtureRuns) -> LogLogFit:
        target = np.log(runs.losses)
        offsets = OFFSETS if self.offset is None else (self.offset,)
        mixture = runs.mixture
        constants, scores = zip(
            *(_least_squares(runs.weights, target, c, mixture) for c in offsets), strict=True
        )
        best = np.stack(scores).argmin(axis=0)
        if not np.isfinite(np.min(scores)):
            refuse(
                "the shares of these mixtures determine no law: some domains only vary together",
                f"{len(runs)} runs",
                "add mixtures that vary each domain by itself",
            )
        chosen = np.stack(constants)[best, :, np.arange(len(runs.targets))]
        return LogLogFit(self, runs, np.array(offsets)[best], chosen[:, 0], chosen[:, 1:])


def _least_squares(weights: Array, target: Array, offset: float, mixture: Array) -> tuple[Array, Array]:
    """Constants, shape (1 + k, m), and sums of squared errors of mixtures left out, shape (m,); inf without a solution.

    Args:
        weights: Shares, shape (n, k).
        target: Logs of losses, shape (n, m).
        offset: c of every target.
        mixture: Number of the mixture of each run, shape (n,).
    """
    X = np.column_stack([np.ones(len(weights)), np.log(weights + offset)])
    u, s, vt = np.linalg.svd(X, full_matrices=False)
    if s[-1] <= 1e-9 * s[0]:
        return np.zeros((X.shape[1], target.shape[1])), np.full(target.shape[1], np.inf)
    constants = vt.T @ ((u.T @ target) / s[:, None])
    residuals, h = target - X @ constants, (u**2).sum(axis=1)
    together = np.zeros((int(mixture.max()) + 1, target.shape[1]))
    np.add.at(together, mixture, residuals)
    left = np.maximum(
        1 - np.bincount(mixture)[mixture] * h, 1e-9
    )  # 0 for a mixture that alone holds a constant
    errors = residuals + (h / left)[:, None] * together[mixture]
    return constants, (errors**2).sum(axis=0)
