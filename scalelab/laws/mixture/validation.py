"""How far a mixture law can be trusted: on mixtures that it has not seen, and at another size.

    hold-out        mean |predicted / actual - 1| over mixtures and targets
    leave-one-out   the same, each mixture predicted from the others
    transfer        a mixture chosen at one size, judged by the law of another; ranks of the mixtures at both

Source: rank correlation of small proxies, Olmix (arXiv:2602.12237): .73 at 1M parameters, .89 at 15M.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from scalelab.errors import FitError
from scalelab.laws.mixture import MIXTURE_LAWS
from scalelab.laws.mixture.base import MixtureLaw, MixtureRuns
from scalelab.laws.mixture.recommendation import MixtureRequest, best_mixture, bounds, shares_of
from scalelab.laws.observations import Array


@dataclass(frozen=True)
class Transfer:
    """A mixture chosen at one size, at another one. Losses in nats per token."""

    chosen_at: str
    judged_at: str
    n_common: int
    """Mixtures that were trained at both sizes."""
    rank_correlation: float | None
    """Spearman's, of the mean losses of those mixtures; None for fewer than 3."""
    regret: float
    """Loss at the other size of the mixture chosen here, less that of the one chosen there, both by the law there."""
    gain: float
    """Loss at the other size of the natural mixture, less that of the mixture chosen here."""

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON types."""
        return dict(vars(self))


def errors(law: MixtureLaw, train: MixtureRuns, test: MixtureRuns) -> Array:
    """Return relative errors of the losses of unseen mixtures, shape (n, m). Raises FitError."""
    return law.fit(train).predict(test.weights) / test.losses - 1


def leave_one_out(law: MixtureLaw, runs: MixtureRuns) -> Array:
    """Return relative errors of each run's losses, its mixture left out of the fit, shape (n, m). Raises FitError."""
    found = np.empty_like(runs.losses)
    for i in range(runs.mixture.max() + 1):
        is_left = runs.mixture == i
        found[is_left] = errors(law, runs.take(np.flatnonzero(~is_left)), runs.take(np.flatnonzero(is_left)))
    return found


def compare_laws(train: MixtureRuns, test: MixtureRuns | None) -> dict[str, float | None]:
    """Return the mean absolute relative error of every registered law; None for one that cannot be fitted.

    Args:
        train: Runs of one size.
        test: Held-out runs of it; None: each mixture is left out once.
    """
    found: dict[str, float | None] = {}
    for name in MIXTURE_LAWS:
        law = MIXTURE_LAWS[name]()
        try:
            off = leave_one_out(law, train) if test is None else errors(law, train, test)
        except FitError:
            found[name] = None
        else:
            found[name] = float(np.abs(off).mean())
    return found


def transfers(
    law: MixtureLaw, sizes: Mapping[str, MixtureRuns], request: MixtureRequest
) -> tuple[list[Transfer], list[str]]:
    """Return what the mixture of each size is worth at every other one, and what could not be judged and why.

    Sizes without a fit are left out.
    """
    fits, left_out = {}, []
    for name, runs in sizes.items():
        try:
            fits[name] = law.fit(runs)
        except FitError:
            continue
    found = []
    for here in fits:
        for there in fits:
            if here == there:
                continue
            runs = sizes[here]
            v = shares_of(request.target_weights, runs.targets, "target")
            try:
                ends = [bounds(sizes[size], request)[:2] for size in (here, there)]
            except FitError as error:  # a small size may not have tried the shares that a cap leaves
                left_out.append(f"the mixture of {here} at {there}: {error.problem}")
                continue
            chosen, other = (best_mixture(fits[size], v, *ends[i]) for i, size in enumerate((here, there)))
            natural = runs.weights.mean(axis=0)
            if request.natural is not None:
                natural = shares_of(request.natural, runs.domains, "domain")
            loss, best, before = (float(fits[there].predict(w) @ v) for w in (chosen, other, natural))
            one, two = _common(runs, sizes[there], v)
            is_ranked = len(one) >= 3 and min(np.ptp(one), np.ptp(two)) > 0
            rank = float(spearmanr(one, two).statistic) if is_ranked else None
            found.append(Transfer(here, there, len(one), rank, loss - best, before - loss))
    return found, left_out


def _common(one: MixtureRuns, other: MixtureRuns, v: Array) -> tuple[Array, Array]:
    """Return mean losses of the mixtures that were trained at both sizes, at each, shape (n,)."""
    means = []
    for runs in (one, other):
        keys = [tuple(row) for row in runs.weights.round(6)]
        losses = runs.losses @ v
        means.append(
            {key: np.mean([loss for k, loss in zip(keys, losses, strict=True) if k == key]) for key in keys}
        )
    shared = [key for key in means[0] if key in means[1]]
    return np.array([means[0][key] for key in shared]), np.array([means[1][key] for key in shared])
