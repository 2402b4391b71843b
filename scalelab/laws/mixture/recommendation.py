"""The best mixture of a law: on the simplex, within the evidence, and with repetition capped.

    minimise  F(w) = sum_t v_t L_t(w)    with  sum_j w_j = 1,  low_j <= w_j <= min(high_j, e U_j / D)

low_j and high_j are the smallest and largest share of domain j that was trained: beyond them the law extrapolates.
e is the number of epochs after which a repeated token is worth `worth` of a new one, by the data-constrained law,

    worth = exp(-(e - 1) / R)

Intervals come from a bootstrap over mixtures (with all their runs). A recommended mixture is chosen where the fit is
lowest, so its predicted loss is too low. In each replicate r the choice is made again; with F* of the replicate and
w* its choice, F(w*) - F*(w*) is by how much its prediction was too low, as F at the true law would be:

    loss of w     F(w) + quantiles of F(w*) - F*(w*)
    gain          F(w0) - F(w) + quantiles of (F(w0) - F(w*)) - (F*(w0) - F*(w*))

The bootstrap knows noise, not that the law may have another form. So both intervals are at least as wide as the errors
of F on mixtures that were left out of the fit, each once: z m / .674, m their median size and z the normal quantile.

Symbols: w shares; v_t weight of target t; F mean loss, nats per token; U_j unique tokens of domain j; D training
tokens; R constant of repeated tokens; w0 the mixture that the gain is measured from.
Source: repetition, Muennighoff et al. 2023 (arXiv:2305.16264); the bootstrap of a choice, Efron and Tibshirani 1993.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from statistics import NormalDist
from typing import Any

import numpy as np
from scipy.optimize import minimize

from scalelab.errors import FitError
from scalelab.laws.forms.repeated import Repeated
from scalelab.laws.mixture.base import MixtureFit, MixtureLaw, MixtureRuns, refuse
from scalelab.laws.observations import Array

WORTH = 0.8
"""Worth of a repeated token, as a part of a new one, down to which a domain is repeated."""
BOUND = 1e-4
"""Distance from a bound, as a share, within which a recommendation counts as at it."""


def epochs_cap(worth: float = WORTH) -> float:
    """Return the epochs after which a repeated token is worth `worth` of a new one, by the published constants."""
    return 1 - Repeated.published["R_D"] * log(worth)


@dataclass(frozen=True)
class MixtureRequest:
    """What a mixture is chosen for."""

    target_weights: Mapping[str, float] | None = None
    """Weight of each target in the mean loss; None: equal."""
    natural: Mapping[str, float] | None = None
    """The mixture that the gain is measured from; None: the mean of the mixtures that were trained."""
    unique_tokens: Mapping[str, float] | None = None
    """Unique tokens of domains; those without are not capped."""
    n_tokens: float | None = None
    """Training tokens of the run that the mixture is for."""
    worth: float = WORTH
    replicates: int = 400
    seed: int = 0
    level: float = 0.9


@dataclass(frozen=True, eq=False)
class Recommendation:
    """A mixture and the loss that it buys. Losses in nats per token."""

    domains: tuple[str, ...]
    weights: Array
    intervals: Array | None
    """Ends of the interval of each share, shape (k, 2); None without replicates, as the other intervals."""
    at_bound: dict[str, str]
    """Domains whose share is at a bound, and which: "lowest trained", "highest trained" or "repetition cap"."""
    epochs: dict[str, float]
    """Passes over each domain, where its unique tokens are known."""
    loss: float
    loss_interval: tuple[float, float] | None
    natural: Array
    natural_loss: float
    gain: float
    """Loss of the natural mixture less that of this one."""
    gain_interval: tuple[float, float] | None
    losses: Array
    """Loss of each target under this mixture, shape (m,)."""
    natural_losses: Array
    best_trained: str
    """Name of the run with the lowest mean loss."""
    best_trained_loss: float
    replicates: int
    failed: int
    level: float

    @property
    def pays(self) -> bool:
        """Whether the whole interval of the gain is above 0; False without an interval."""
        return self.gain_interval is not None and self.gain_interval[0] > 0

    def to_json(self, targets: tuple[str, ...]) -> dict[str, Any]:
        """Return the record as JSON types."""
        ends = [None] * len(self.domains) if self.intervals is None else self.intervals.tolist()
        rows = zip(self.domains, self.weights, ends, self.natural, strict=True)
        return {
            "weights": {
                d: {"share": float(w), "interval": interval, "natural": float(n)}
                for d, w, interval, n in rows
            },
            "at_bound": self.at_bound,
            "epochs": self.epochs,
            "loss": self.loss,
            "loss_interval": self.loss_interval and list(self.loss_interval),
            "natural_loss": self.natural_loss,
            "gain": self.gain,
            "gain_interval": self.gain_interval and list(self.gain_interval),
            "pays": self.pays,
            "losses": dict(zip(targets, map(float, self.losses), strict=True)),
            "natural_losses": dict(zip(targets, map(float, self.natural_losses), strict=True)),
            "best_trained": {"run": self.best_trained, "loss": self.best_trained_loss},
            "bootstrap": {"replicates": self.replicates, "failed": self.failed, "unit": "mixture"},
            "level": self.level,
        }


def recommend(
    law: MixtureLaw, runs: MixtureRuns, request: MixtureRequest = MixtureRequest()
) -> Recommendation:
    """Return the mixture with the lowest mean loss that the runs support.

    Args:
        law: A smooth law.
        runs: Runs of one size.
        request: What the mixture is for.

    Raises:
        FitError: The law cannot be fitted, or no mixture satisfies the caps.
    """
    if not law.is_smooth:
        refuse(f"{type(law).__name__} has no best mixture", "the mixture law", "use log_log or linear")
    fit = law.fit(runs)
    v = shares_of(request.target_weights, runs.targets, "target")
    given = None if request.natural is None else shares_of(request.natural, runs.domains, "domain")
    natural = runs.weights.mean(axis=0) if given is None else given
    low, high, caps = bounds(runs, request)
    w = best_mixture(fit, v, low, high)
    draws = [
        _again(law, fit, v, natural, low, high, w, rng)
        for rng in np.random.default_rng(request.seed).spawn(request.replicates)
    ]
    kept = [draw for draw in draws if draw is not None]
    if 2 * len(kept) < request.replicates:
        refuse(
            f"{request.replicates - len(kept)} of {request.replicates} redrawn sets of mixtures determine no law",
            f"{runs.n_mixtures} mixtures",
            "train more mixtures: 3 to 5 for each domain",
        )
    ends = [(1 - request.level) / 2, (1 + request.level) / 2]
    losses, before = fit.predict(w), fit.predict(natural)
    loss, gain = float(losses @ v), float((before - losses) @ v)
    shares, loss_ends, gain_ends = None, None, None
    if kept:
        chosen, too_low, too_much = (np.array(column) for column in zip(*kept, strict=True))
        spread = np.quantile(chosen, ends, axis=0).T
        shares = np.column_stack([np.minimum(spread[:, 0], w), np.maximum(spread[:, 1], w)])
        unseen = unseen_error(law, runs, v, request.level) * np.array([-1, 1])
        loss_ends = _wider(loss + np.quantile(too_low, ends), loss + unseen)
        gain_ends = _wider(gain + np.quantile(too_much, ends), gain + unseen)
    trained = runs.losses @ v
    unique, D = request.unique_tokens or {}, request.n_tokens
    return Recommendation(
        domains=runs.domains,
        weights=w,
        intervals=shares,
        at_bound=_at_bound(runs.domains, w, low, high, caps),
        epochs={d: _epochs(w[i] * D, unique[d]) for i, d in enumerate(runs.domains) if D and d in unique},
        loss=loss,
        loss_interval=loss_ends,
        natural=natural,
        natural_loss=float(before @ v),
        gain=gain,
        gain_interval=gain_ends,
        losses=losses,
        natural_losses=before,
        best_trained=runs.names[int(trained.argmin())],
        best_trained_loss=float(trained.min()),
        replicates=request.replicates,
        failed=request.replicates - len(kept),
        level=request.level,
    )


def unseen_error(law: MixtureLaw, runs: MixtureRuns, v: Array, level: float) -> float:
    """Return the error of the mean loss that a share `level` of mixtures stay within that the law has not seen.

    Each mixture is left out once. Their median error gives the scale of a normal distribution: the mixtures at the
    edge, which the others do not reach, have errors that a mixture between them has not. 0 where there is no error.

    Args:
        law: The law.
        runs: Runs of one size.
        v: Weights of the targets, shape (m,).
        level: Between 0 and 1.
    """
    mixture, off = runs.mixture, []
    for i in range(mixture.max() + 1):
        is_left = mixture == i
        try:
            fit = law.fit(runs.take(np.flatnonzero(~is_left)))
        except FitError:
            continue
        off.append(
            abs(float((fit.predict(runs.weights[is_left][0]) - runs.losses[is_left].mean(axis=0)) @ v))
        )
    normal = NormalDist()
    return float(np.median(off)) / normal.inv_cdf(0.75) * normal.inv_cdf((1 + level) / 2) if off else 0.0


def bounds(runs: MixtureRuns, request: MixtureRequest) -> tuple[Array, Array, Array]:
    """Return the lowest and highest share of each domain, and the caps by repetition, inf where there is none.

    Raises:
        FitError: The caps leave less than a whole mixture, or name an unknown domain.
    """
    low, high = runs.weights.min(axis=0), runs.weights.max(axis=0)
    caps = np.full(len(low), np.inf)
    for name, unique in (request.unique_tokens or {}).items():
        if name not in runs.domains:
            refuse(
                f"unique tokens of {name!r}, which is no domain",
                "unique_tokens",
                f"domains: {', '.join(runs.domains)}",
            )
        if request.n_tokens is None:
            refuse(
                "unique tokens are given without training tokens", "n_tokens", "state the training tokens too"
            )
        caps[runs.domains.index(name)] = epochs_cap(request.worth) * unique / request.n_tokens
    high = np.minimum(high, caps)
    low = np.minimum(low, high)
    if high.sum() < 1:
        refuse(
            f"the domains have tokens for {high.sum():.0%} of the run at {epochs_cap(request.worth):.2g} epochs",
            "unique_tokens",
            "train on fewer tokens, give more text, or allow more epochs",
        )
    return low, high, caps


def best_mixture(fit: MixtureFit, v: Array, low: Array, high: Array, start: Array | None = None) -> Array:
    """Return the shares within bounds that minimise the mean loss, shape (k,).

    Args:
        fit: A smooth law.
        v: Weights of the targets, shape (m,).
        low: Lowest shares, shape (k,).
        high: Highest shares, shape (k,).
        start: Where the search begins; None: at the best trained mixture and at the mean of them, the better of both.
    """
    k = len(low)

    def value(w: Array) -> tuple[float, Array]:
        return float(fit.predict(w) @ v), v @ fit.jacobian(w)

    trained = fit.runs.weights[int(np.argmin(fit.runs.losses @ v))]
    best, least = None, np.inf
    for begin in (trained, fit.runs.weights.mean(axis=0)) if start is None else (start,):
        found = minimize(
            value,
            project(begin, low, high),
            jac=True,
            method="SLSQP",
            bounds=list(zip(low, high, strict=True)),
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(k)},
            options={"maxiter": 200, "ftol": 1e-10},
        )
        w = project(found.x, low, high)
        if (F := value(w)[0]) < least:
            best, least = w, F
    assert best is not None
    return best


def project(w: Array, low: Array, high: Array) -> Array:
    """Return the nearest shares within bounds that sum to 1 (Euclidean distance)."""
    a, b = (
        (low - w).min() - 1,
        (high - w).max() + 1,
    )  # w + shift, clipped, has a sum that grows with the shift
    for _ in range(100):
        shift = (a + b) / 2
        if np.clip(w + shift, low, high).sum() < 1:
            a = shift
        else:
            b = shift
    return np.clip(w + b, low, high)


def _again(
    law: MixtureLaw,
    fit: MixtureFit,
    v: Array,
    natural: Array,
    low: Array,
    high: Array,
    start: Array,
    rng: np.random.Generator,
) -> tuple[Array, float, float] | None:
    """Return the choice of a redrawn set of mixtures, and by how much its loss and gain were wrong; None: no law."""
    mixture = fit.runs.mixture
    drawn = rng.integers(0, mixture.max() + 1, mixture.max() + 1)
    rows = np.concatenate([np.flatnonzero(mixture == i) for i in drawn])
    try:
        other = law.fit(fit.runs.take(rows))
    except FitError:
        return None
    w = best_mixture(other, v, low, high, start)
    loss, known = float(other.predict(w) @ v), float(fit.predict(w) @ v)
    gain = float(other.predict(natural) @ v) - loss
    return w, known - loss, float(fit.predict(natural) @ v) - known - gain


def _wider(one: Array, other: Array) -> tuple[float, float]:
    """Return the interval that holds both."""
    return float(min(one[0], other[0])), float(max(one[1], other[1]))


def _epochs(n_tokens: float, unique: float) -> float:
    """Return the passes over a domain; 0 for one that is not read, also where it has no text."""
    return float(n_tokens / unique) if n_tokens > 0 else 0.0


def shares_of(given: Mapping[str, float] | None, names: tuple[str, ...], what: str) -> Array:
    """Return weights by name as parts of 1; equal where none are given."""
    if given is None:
        return np.full(len(names), 1 / len(names))
    if unknown := sorted(set(given) - set(names)):
        refuse(f"{unknown[0]!r} is no {what}", f"weights of {what}s", f"{what}s: {', '.join(names)}")
    values = np.array([float(given.get(name, 0)) for name in names])
    if not (np.isfinite(values).all() and values.min() >= 0 and values.sum() > 0):
        refuse(f"weights of {what}s must be 0 or more, and not all 0", f"weights of {what}s", "correct them")
    return values / values.sum()


def _at_bound(domains: tuple[str, ...], w: Array, low: Array, high: Array, caps: Array) -> dict[str, str]:
    found = {}
    for name, share, least, most, cap in zip(domains, w, low, high, caps, strict=True):
        if share >= most - BOUND:
            found[name] = "repetition cap" if cap <= most + BOUND else "highest trained"
        elif share <= least + BOUND:
            found[name] = "lowest trained"
    return found
