"""Logistic regression of verdicts on answer length, with a check that a finite fit exists.

    logit P(model preferred) = theta + phi tanh(dlen / s)        symbols as in pairwise.py

Not here: the length-controlled win rate and its interval (pairwise.py).
"""

from dataclasses import dataclass

import numpy as np

from scalelab.errors import DataError
from scalelab.evals.preference.judgments import Array, Judgments, PromptSample
from scalelab.evals.preference.logistic import CONVERGED, line_search

RIDGE = 0.01
"""Weight of theta^2 / 2 + phi^2 / 2 if no finite fit exists; each prompt has weight 1. The
C = 100 of a logistic regression."""

LEAST_SPREAD = 0.05
"""Least range of tanh(dlen / s): below it, equal lengths are 20 ranges away from all pairs."""

NEWTON_STEPS = 100
FLAT = 1e-12  # of what the curvature is the difference of: less is lost in rounding


@dataclass(frozen=True, eq=False)
class LengthFit:
    """theta and phi of one set of pairs; can be fitted again with new weights."""

    z: Array
    """tanh(dlen / s), (n,)."""
    y: Array
    scale: float
    mean_difference: float
    extrapolates: bool
    theta: float
    phi: float
    ridged: bool

    @classmethod
    def of(cls, judgments: Judgments, sample: PromptSample) -> "LengthFit":
        """Return the maximum-likelihood theta and phi. Raises DataError if lengths carry no information."""
        where = f"the judged pairs of {judgments.model} against {judgments.baseline}"
        if judgments.length is None:
            raise DataError(
                "answer lengths are missing",
                where=where,
                fix="give `length` and `baseline_length`, in characters or words",
            )
        difference = np.asarray(judgments.length, float) - judgments.baseline_length
        mean = sample.mean(difference)
        square = sample.mean((difference - mean) ** 2) * sample.n_prompts / (sample.n_prompts - 1)
        if np.ptp(difference) == 0:
            raise DataError(
                f"the lengths differ by {difference[0]:g} {judgments.length_unit} in every pair: "
                "their effect cannot be estimated",
                where=where,
                fix="report the raw win rate; check that lengths are of the answers themselves",
            )
        scale = float(np.sqrt(square))
        z, y = np.tanh(difference / scale), judgments.preference
        if np.ptp(z) < LEAST_SPREAD:
            raise DataError(
                f"the lengths differ by {difference.min():g} to {difference.max():g} "
                f"{judgments.length_unit}: too similar, so far from 0, to estimate the effect of length",
                where=where,
                fix="report the raw win rate; judge against a baseline of a similar length",
            )
        (coefficients,), (ridged,) = _fit(z, y, sample.weight[None])
        return cls(
            z=z,
            y=y,
            scale=scale,
            mean_difference=mean,
            extrapolates=bool(difference.min() > 0 or difference.max() < 0),
            theta=float(coefficients[0]),
            phi=float(coefficients[1]),
            ridged=bool(ridged),
        )

    def again(self, weight: Array) -> tuple[Array, Array]:
        """Return coefficients (r, 2) under weights (r, n), and which used the ridge (r,).

        s is kept from the sample: it is the unit of dlen, not an estimate.
        """
        return _fit(self.z, self.y, weight)


def _separable(z: Array, y: Array, weight: Array) -> Array:
    """Return whether no finite theta, phi maximises the likelihood under weights (r, n); shape (r,).

    With one input: if a threshold on z has all shares of 1 on one side and all of 0 on the
    other, points on the threshold free. A label between 0 and 1 is on both sides.
    Source: Albert & Anderson 1984, Biometrika 71.
    """
    counts = weight > 0
    won, lost = counts & (y > 0), counts & (y < 1)
    low_won, low_lost = (np.where(side, z, np.inf).min(axis=1) for side in (won, lost))
    high_won, high_lost = (np.where(side, z, -np.inf).max(axis=1) for side in (won, lost))
    return (high_lost <= low_won) | (high_won <= low_lost)


def _fit(z: Array, y: Array, weight: Array) -> tuple[Array, Array]:
    """Return coefficients (r, 2) of soft labels y (n,) under weights (r, n), and which used the ridge.

    The ridge is used for separable labels, and for those so close to separable that rounding matters.
    """
    ridged = _separable(z, y, weight)
    beta, arrived = _newton(z, y, weight, np.where(ridged, RIDGE, 0.0))
    rest = np.flatnonzero(~arrived)
    if rest.size:
        ridged[rest] = True
        beta[rest], arrived[rest] = _newton(z, y, weight[rest], np.full(len(rest), RIDGE))
    assert arrived.all(), "a likelihood with a ridge is curved everywhere"
    return beta, ridged


def _newton(z: Array, y: Array, weight: Array, ridge: Array) -> tuple[Array, Array]:
    """Return maximum-likelihood coefficients (r, 2) with a ridge (r,), and which converged, (r,)."""
    design = np.stack([np.ones_like(z), z], axis=1)
    moments = np.stack([np.ones_like(z), z, z * z], axis=1)
    won = (weight * y) @ design  # (r, 2), does not change from step to step

    def evaluate(beta: Array) -> tuple[Array, Array]:
        """Return the log-likelihood minus the ridge (r,), and win probabilities (r, n)."""
        logit = beta @ design.T
        small = np.exp(-np.abs(logit))
        softplus = np.maximum(logit, 0) + np.log1p(small)
        height = (
            np.sum(won * beta, axis=1)
            - np.einsum("rn,rn->r", weight, softplus)
            - ridge * np.sum(beta**2, axis=1) / 2
        )
        return height, np.where(logit > 0, 1.0, small) / (1 + small)

    beta = np.zeros((len(weight), 2))
    height, p = evaluate(beta)
    flat = np.zeros(len(weight), bool)
    for _ in range(NEWTON_STEPS):
        expected = weight * p
        gradient = won - expected @ design - ridge[:, None] * beta
        h0, h1, h2 = ((expected * (1 - p)) @ moments).T
        h0, h2 = h0 + ridge, h2 + ridge
        curvature = h0 * h2 - h1 * h1
        flat |= curvature <= FLAT * h0 * h2  # stays where it is and does not converge
        across = np.stack([h2 * gradient[:, 0], h0 * gradient[:, 1]]) - h1 * gradient.T[::-1]
        step = (across / np.where(flat, np.inf, curvature)).T
        expected_gain = np.sum(gradient * step, axis=1)
        beta, height, p = line_search(evaluate, beta, height, step, expected_gain)
        found = np.abs(expected_gain) < CONVERGED
        if np.all(found):
            break
    return beta, found & ~flat
