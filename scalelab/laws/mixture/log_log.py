"""Log loss linear in log shares, with an offset for what the other domains teach.

    ln L_t(w) = a_t + sum_j b_tj ln(w_j + c_t)

a_t and b_tj are ordinary least squares. The offset c_t keeps a share of 0 finite: it is what a domain's absence is
worth. Of OFFSETS each target takes the one whose leave-one-out errors are least, which least squares gives in closed
form (PRESS): e_i / (1 - h_ii), h the diagonal of the hat matrix.

Symbols: w_j share of domain j; L_t loss of target t, nats per token; c_t offset, a share.
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
    """c of every target, a share; None: of OFFSETS, for each target the one with the least leave-one-out error."""

    formula = "ln L_t = a_t + sum_j b_tj ln(w_j + c_t)"
    source = "log-linear regression of mixtures, arXiv:2407.01492, arXiv:2602.12237; PRESS, Allen 1974"

    def least_mixtures(self, n_domains: int) -> int:
        """Return the number of constants of a target, and one more to judge them by."""
        return n_domains + 2

    def _fit(self, runs: MixtureRuns) -> LogLogFit:
        target = np.log(runs.losses)
        offsets = OFFSETS if self.offset is None else (self.offset,)
        constants, scores = zip(*(_least_squares(runs.weights, target, c) for c in offsets), strict=True)
        best = np.stack(scores).argmin(axis=0)
        if not np.isfinite(np.min(scores)):
            refuse(
                "the shares of these mixtures determine no law: some domains only vary together",
                f"{len(runs)} runs",
                "add mixtures that vary each domain by itself",
            )
        chosen = np.stack(constants)[best, :, np.arange(len(runs.targets))]
        return LogLogFit(self, runs, np.array(offsets)[best], chosen[:, 0], chosen[:, 1:])


def _least_squares(weights: Array, target: Array, offset: float) -> tuple[Array, Array]:
    """Constants, shape (1 + k, m), and sums of squared leave-one-out errors, shape (m,); inf without a solution."""
    X = np.column_stack([np.ones(len(weights)), np.log(weights + offset)])
    u, s, vt = np.linalg.svd(X, full_matrices=False)
    if s[-1] <= 1e-9 * s[0]:
        return np.zeros((X.shape[1], target.shape[1])), np.full(target.shape[1], np.inf)
    constants = vt.T @ ((u.T @ target) / s[:, None])
    left = np.maximum(1 - (u**2).sum(axis=1), 1e-9)  # 0 for a run that alone holds a constant
    errors = (target - X @ constants) / left[:, None]
    return constants, (errors**2).sum(axis=0)
